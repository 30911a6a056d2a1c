"""Rewards for the engagement of the simulated user, by rules or by the user model.

By rules, each action of the user in the window has a value. The reward is their mean.

- 1: the user thanks or accepts ("great, that works") without an objection.
- 0.75: the user continues.
- 0.5: the user leaves silently after a reply that answered.
- 0.25: the user repeats themselves: at least four fifths of the words were in an earlier user turn.
- 0: the user complains or corrects ("no, I said ..."), or leaves a question unanswered.

After a question, a leading "no" is an answer, and the rest of the turn is rated. The rules are for English, as are the
lists in `usersim.text.user_acts`. A window without any user action (w = 0) has no value: the future is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from collab_train.rewards.registry import Episode, RewardError, Tools, extrinsic
from usersim.text.reply_acts import content_words, questions
from usersim.text.user_acts import is_pushback
from usersim.types import Turn

SATISFIED = re.compile(
    r"\b(?:thanks|thank you|thx|ty|cheers|perfect|great|awesome|excellent|lovely|love it|nice one|sounds good"
    r"|(?:that|this|it)(?:'s| is)? (?:works|helps|helped|good|great|all i (?:need|wanted))|that's it|exactly what)\b"
)
UNSATISFIED = re.compile(
    r"\b(?:no thanks|thanks (?:a lot )?for nothing|useless|not helpful|doesn't help|didn't help|waste of time"
    r"|forget it|never ?mind|i give up"
    r"|too (?:long|vague|generic|complicated)|(?:already|just) (?:said|told|asked))\b"
)
NO = re.compile(r"\W*(?:no|nope|nah|none|not really|not at all|nothing)\b[\s,.!-]*", re.IGNORECASE)
"""Openings that answer a question but object to a statement."""
SAME_AGAIN = 0.8
THANKED, WENT_ON, LEFT, REPEATED, OBJECTED = 1.0, 0.75, 0.5, 0.25, 0.0


@extrinsic("engagement")
def engagement(episode: Episode) -> float:
    """Mean value, in [0, 1], of the user's actions in the window."""
    turns, start = episode.conversation.turns, len(episode.context.turns)
    values = [_value(turns, index) for index in range(start, len(turns)) if turns[index].role == "user"]
    if episode.conversation.ended_by == "user" and turns[-1].role == "assistant":
        values.append(_leaving(turns))
    if not values:
        raise RewardError("rewards.engagement: the user does nothing in the window; use w of 1 or more")
    return fmean(values)


def satisfied(text: str) -> bool:
    normalised = " ".join(text.lower().replace("\u2019", "'").split())
    return SATISFIED.search(normalised) is not None and not _objects(text)


def _objects(text: str) -> bool:
    normalised = " ".join(text.lower().replace("\u2019", "'").split())
    return is_pushback(text) or UNSATISFIED.search(normalised) is not None


def _value(turns: Sequence[Turn], at: int) -> float:
    text = turns[at].text
    if at and turns[at - 1].text.rstrip(" *_\"')").endswith("?"):
        text = NO.sub("", text, count=1) if NO.match(text) else text
    if _objects(text):
        return OBJECTED
    earlier = [turn.text for turn in turns[:at] if turn.role == "user"]
    words = content_words(text)
    if len(words) > 1 and any(len(words & content_words(e)) >= SAME_AGAIN * len(words) for e in earlier):
        return REPEATED
    return THANKED if satisfied(text) else WENT_ON


def _leaving(turns: Sequence[Turn]) -> float:
    """Value of silent leaving: 1 after an earlier thanks, 0 after an open question, else 0.5."""
    if questions(turns[-1].text):
        return OBJECTED
    before = [turn.text for turn in turns if turn.role == "user"]
    return THANKED if before and satisfied(before[-1]) else LEFT


@extrinsic("engagement_lm", needs="user")
async def engagement_lm(episode: Episode, tools: Tools) -> float:
    """Mean of 1 - P(end) over the assistant's turns in the window, where P(end) is the user model's.

    A reply that follows a satisfied user turn counts 1. Each turn takes one forward pass and samples no text, so this
    also works with w = 0.
    """
    turns, start = episode.conversation.turns, len(episode.context.turns)
    user: Any = tools.user
    if not hasattr(user, "termination"):
        raise RewardError(
            "rewards.engagement_lm: this user has no P(end); use a User LM or the reward `engagement`"
        )
    values = []
    for index in range(start, len(turns)):
        if turns[index].role == "assistant":
            was_satisfied = index > start and satisfied(turns[index - 1].text)
            termination = (
                None if was_satisfied else await user.termination(episode.context.profile, turns[: index + 1])
            )
            values.append(1.0 if termination is None else 1.0 - termination.end_probability)
    return fmean(values)
