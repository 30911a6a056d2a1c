"""Whether the simulated user goes on willingly and ends satisfied: by rules, or by the user model itself.

By rules, each thing the user does in the window has a value, and the reward is their mean:

    1     thanks or accepts ("great, that works"), without objecting
    0.75  goes on
    0.5   leaves without a word after a reply that answered
    0.25  says the same again: at least four fifths of the words were in an earlier turn of theirs
    0     complains or corrects ("no, I said ..."), or leaves a question unanswered

"no" after a question is an answer: what counts is the rest of the turn.

English, as are the lists behind it (`usersim.text.user_acts`). A window in which the user does nothing (w = 0)
has no value: the future is left out.
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
"""What answers a question and objects to a statement."""
SAME_AGAIN = 0.8
THANKED, WENT_ON, LEFT, REPEATED, OBJECTED = 1.0, 0.75, 0.5, 0.25, 0.0


@extrinsic("engagement")
def engagement(episode: Episode) -> float:
    """Mean value, in [0, 1], of what the user does in the window."""
    turns, start = episode.conversation.turns, len(episode.context.turns)
    values = [_value(turns, at) for at in range(start, len(turns)) if turns[at].role == "user"]
    if episode.conversation.ended_by == "user" and turns[-1].role == "assistant":
        values.append(_leaving(turns))
    if not values:
        raise RewardError("rewards.engagement: the user does nothing in the window; it needs w of 1 or more")
    return fmean(values)


def satisfied(text: str) -> bool:
    said = " ".join(text.lower().replace("\u2019", "'").split())
    return SATISFIED.search(said) is not None and not _objects(text)


def _objects(text: str) -> bool:
    said = " ".join(text.lower().replace("\u2019", "'").split())
    return is_pushback(text) or UNSATISFIED.search(said) is not None


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
    """Of going without a word: the last word was already thanks, a question stays open, or neither."""
    if questions(turns[-1].text):
        return OBJECTED
    before = [turn.text for turn in turns if turn.role == "user"]
    return THANKED if before and satisfied(before[-1]) else LEFT


@extrinsic("engagement_lm", needs="user")
async def engagement_lm(episode: Episode, tools: Tools) -> float:
    """Mean of 1 - P(end) over the assistant's turns of the window: how likely the user model is to go on after each.

    After a turn in which the user was satisfied, leaving is as it should be and counts 1. One look at the first
    token a turn, no word drawn; also with w = 0.
    """
    turns, start = episode.conversation.turns, len(episode.context.turns)
    user: Any = tools.user
    if not hasattr(user, "termination"):
        raise RewardError("rewards.engagement_lm: this user gives no P(end); use a user LM, or `engagement`")
    values = []
    for at in range(start, len(turns)):
        if turns[at].role == "assistant":
            done = at > start and satisfied(turns[at - 1].text)
            leaving = None if done else await user.termination(episode.context.profile, turns[: at + 1])
            values.append(1.0 if leaving is None else 1.0 - leaving.end_probability)
    return fmean(values)
