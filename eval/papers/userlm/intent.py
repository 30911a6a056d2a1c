"""Intent adherence: does the simulated user stay with what it wanted when the assistant offers something else?

After a real opening the assistant offers to talk of another matter. The user keeps its intent unless its turn takes
up the offer, by rules that are checked on planted lines. A user who leaves has kept it; how many left is said
beside it. People are read where nobody had tempted them: what the rules say of them there is the rules' own error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.fidelity.samples.features import user_texts
from eval.likelihood.drawing import Ask, Batch
from eval.likelihood.goals import content
from eval.papers.userlm.metric_rows import Row
from eval.papers.userlm.temptations import ACCEPTING, ASSENT, DENIAL, DIVERSIONS, REFUSING, TOPICS
from usersim.stats.estimates import Estimate, newcombe, rng_for, wilson
from usersim.text.embeddings import embed
from usersim.text.user_acts import is_pushback
from usersim.types import Conversation, Goal, Turn, UserProfile


@dataclass(frozen=True)
class Diversion:
    """A real opening, the goal behind it, and what the assistant would rather talk about."""

    opening: str
    goal: str
    topic: str
    line: str


def diversions(
    conversations: Sequence[Conversation], count: int, seed: int
) -> list[tuple[Diversion, Goal | None]]:
    """For `count` conversations at most; the topic is drawn among the half that is least like the opening."""
    rng = rng_for(seed, "diversions")
    chosen = [conversations[i] for i in rng.permutation(len(conversations))[:count]]
    topics = embed(TOPICS)
    first = [user_texts(c)[0] for c in chosen]
    far = np.argsort(embed(first) @ topics.T, axis=1)[:, : len(TOPICS) // 2]
    made = []
    for index, (conversation, opening) in enumerate(zip(chosen, first, strict=True)):
        topic = TOPICS[int(rng.choice(far[index]))]
        goal = conversation.profile.goal
        line = DIVERSIONS[index % len(DIVERSIONS)].format(topic=topic)
        made.append((Diversion(opening, goal.summary if goal else "", topic, line), goal))
    return made


def intent_asks(made: Sequence[tuple[Diversion, Goal | None]]) -> list[Ask]:
    return [
        Ask(
            f"intent {index}",
            UserProfile(goal=goal),
            (Turn(role="user", text=d.opening), Turn(role="assistant", text=d.line)),
        )
        for index, (d, goal) in enumerate(made)
    ]


def accepts(texts: Sequence[str], made: Sequence[Diversion]) -> list[bool]:
    """Whether each turn takes up its diversion: an objection never does; an assent does unless it speaks of the
    own matter; anything else does when it is about the topic and not about the own matter."""
    if not texts:
        return []
    said, own, topic = (
        embed(list(group))
        for group in (texts, [f"{d.opening} {d.goal}" for d in made], [d.topic for d in made])
    )
    nearer_topic = (said * topic).sum(1) > (said * own).sum(1)
    return [_accepts(t, d, bool(near)) for t, d, near in zip(texts, made, nearer_topic, strict=True)]


def _accepts(text: str, made: Diversion, nearer_topic: bool) -> bool:
    words, mine = content(text), content(f"{made.opening} {made.goal}")
    on_topic = bool(words & (content(made.topic) - mine))
    on_own = bool(words & mine)
    if on_topic and not on_own and not DENIAL.match(text):
        return True
    if DENIAL.match(text) or is_pushback(text) or on_own:
        return False
    return bool(ASSENT.match(text)) or nearer_topic


def intent_row(speaker: str, made: Sequence[Diversion], batch: Batch, people: Estimate | None) -> Row | None:
    """Share that did not take up the diversion; None where every turn failed."""
    spoken = [(i, batch.turns[f"intent {i}"]) for i in range(len(made)) if f"intent {i}" in batch.turns]
    if not spoken:
        return None
    left = sum(turn.ends for _, turn in spoken)
    staying = [(turn.text, made[i]) for i, turn in spoken if not turn.ends]
    taken = sum(accepts([text for text, _ in staying], [d for _, d in staying]))
    value = wilson(len(spoken) - taken, len(spoken))
    return Row(
        metric="intent adherence",
        speaker=speaker,
        key="keeps_intent",
        label="does not take up a diversion",
        better="higher",
        value=value,
        human=people,
        gap=newcombe(value, people) if people else None,
        note=f"{left} of {len(spoken)} left instead; people: real second turns, which nobody had tempted",
    )


def people_keep_intent(conversations: Sequence[Conversation], count: int, seed: int) -> Estimate | None:
    """What the rule says of real second turns; they saw no diversion, so whatever it blames is its own error."""
    spoke = [c for c in conversations if len(user_texts(c)) > 1 and c.turns[0].role == "user"]
    rng = rng_for(seed, "people and diversions")
    chosen = [spoke[i] for i in rng.permutation(len(spoke))[:count]]
    if not chosen:
        return None
    made = [
        Diversion(
            user_texts(c)[0], c.profile.goal.summary if c.profile.goal else "", str(rng.choice(TOPICS)), ""
        )
        for c in chosen
    ]
    taken = accepts([user_texts(c)[1] for c in chosen], made)
    return wilson(len(taken) - sum(taken), len(taken))


def planted(made: Sequence[Diversion]) -> Mapping[str, Estimate]:
    """How often the rule is right on lines whose answer is known; one of each kind for every diversion."""
    checks = {}
    for name, lines, right in (
        ("diversion taken up, found", ACCEPTING, True),
        ("diversion refused, passed", REFUSING, False),
    ):
        texts = [
            lines[i % len(lines)].format(topic=d.topic, opening=_short(d.opening)) for i, d in enumerate(made)
        ]
        hits = sum(found is right for found in accepts(texts, made))
        if texts:
            checks[name] = wilson(hits, len(texts))
    return checks


def _short(opening: str) -> str:
    return " ".join(opening.split()[:30])
