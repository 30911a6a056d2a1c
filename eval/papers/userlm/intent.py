"""Intent adherence: whether the simulated user keeps its intent when the assistant offers another topic.

After a real opening the assistant offers to talk about another topic. The user keeps its intent unless its turn
accepts the offer, by rules that are checked on planted lines. A user who leaves keeps its intent; the number who
left is reported beside it. People's real second turns had no diversion: a turn of theirs that the rules flag is
an error of the rules.
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
    """A real opening, its goal, and the topic that the assistant offers instead."""

    opening: str
    goal: str
    topic: str
    line: str


def diversions(
    conversations: Sequence[Conversation], count: int, seed: int
) -> list[tuple[Diversion, Goal | None]]:
    """Returns at most `count` diversions with the goals of their conversations; the topic is sampled from the half
    that is least like the opening."""
    rng = rng_for(seed, "diversions")
    sampled = [conversations[i] for i in rng.permutation(len(conversations))[:count]]
    topics = embed(TOPICS)
    first = [user_texts(c)[0] for c in sampled]
    unlike_topics = np.argsort(embed(first) @ topics.T, axis=1)[:, : len(TOPICS) // 2]
    diversion_goals = []
    for index, (conversation, opening) in enumerate(zip(sampled, first, strict=True)):
        topic = TOPICS[int(rng.choice(unlike_topics[index]))]
        goal = conversation.profile.goal
        line = DIVERSIONS[index % len(DIVERSIONS)].format(topic=topic)
        diversion_goals.append((Diversion(opening, goal.summary if goal else "", topic, line), goal))
    return diversion_goals


def intent_asks(diversion_goals: Sequence[tuple[Diversion, Goal | None]]) -> list[Ask]:
    return [
        Ask(
            f"intent {index}",
            UserProfile(goal=goal),
            (Turn(role="user", text=d.opening), Turn(role="assistant", text=d.line)),
        )
        for index, (d, goal) in enumerate(diversion_goals)
    ]


def accepts(texts: Sequence[str], diversion_list: Sequence[Diversion]) -> list[bool]:
    """Returns whether each turn accepts its diversion. An objection never accepts. An assent accepts unless it is
    about the user's own topic. Any other turn accepts when it is about the offered topic and not about the own
    one."""
    if not texts:
        return []
    text_vectors, own_vectors, topic_vectors = (
        embed(list(group))
        for group in (
            texts,
            [f"{d.opening} {d.goal}" for d in diversion_list],
            [d.topic for d in diversion_list],
        )
    )
    nearer_topic = (text_vectors * topic_vectors).sum(1) > (text_vectors * own_vectors).sum(1)
    return [
        _accepts(t, d, bool(is_near))
        for t, d, is_near in zip(texts, diversion_list, nearer_topic, strict=True)
    ]


def _accepts(text: str, diversion: Diversion, nearer_topic: bool) -> bool:
    text_words, own_words = content(text), content(f"{diversion.opening} {diversion.goal}")
    on_topic = bool(text_words & (content(diversion.topic) - own_words))
    on_own = bool(text_words & own_words)
    if on_topic and not on_own and not DENIAL.match(text):
        return True
    if DENIAL.match(text) or is_pushback(text) or on_own:
        return False
    return bool(ASSENT.match(text)) or nearer_topic


def intent_row(
    speaker: str, diversion_list: Sequence[Diversion], batch: Batch, people: Estimate | None
) -> Row | None:
    """Returns the share that did not accept the diversion; None where every turn failed."""
    answered = [
        (i, batch.turns[f"intent {i}"]) for i in range(len(diversion_list)) if f"intent {i}" in batch.turns
    ]
    if not answered:
        return None
    left_count = sum(turn.ends for _, turn in answered)
    staying = [(turn.text, diversion_list[i]) for i, turn in answered if not turn.ends]
    accepted_count = sum(accepts([text for text, _ in staying], [d for _, d in staying]))
    value = wilson(len(answered) - accepted_count, len(answered))
    return Row(
        metric="intent adherence",
        speaker=speaker,
        key="keeps_intent",
        label="does not accept a diversion",
        better="higher",
        value=value,
        human=people,
        gap=newcombe(value, people) if people else None,
        note=f"{left_count} of {len(answered)} left instead; people: real second turns, without a diversion",
    )


def people_keep_intent(conversations: Sequence[Conversation], count: int, seed: int) -> Estimate | None:
    """Applies the rule to real second turns. They had no diversion, so a turn that it flags is an error of the rule."""
    with_second_turn = [c for c in conversations if len(user_texts(c)) > 1 and c.turns[0].role == "user"]
    rng = rng_for(seed, "people and diversions")
    sampled = [with_second_turn[i] for i in rng.permutation(len(with_second_turn))[:count]]
    if not sampled:
        return None
    diversion_list = [
        Diversion(
            user_texts(c)[0], c.profile.goal.summary if c.profile.goal else "", str(rng.choice(TOPICS)), ""
        )
        for c in sampled
    ]
    accepted = accepts([user_texts(c)[1] for c in sampled], diversion_list)
    return wilson(len(accepted) - sum(accepted), len(accepted))


def planted(diversion_list: Sequence[Diversion]) -> Mapping[str, Estimate]:
    """Returns the rule's accuracy on lines with a known answer, one of each kind for every diversion."""
    checks = {}
    for name, lines, expected in (
        ("diversion taken up, found", ACCEPTING, True),
        ("diversion refused, passed", REFUSING, False),
    ):
        texts = [
            lines[i % len(lines)].format(topic=d.topic, opening=_short(d.opening))
            for i, d in enumerate(diversion_list)
        ]
        hits = sum(is_accepted is expected for is_accepted in accepts(texts, diversion_list))
        if texts:
            checks[name] = wilson(hits, len(texts))
    return checks


def _short(opening: str) -> str:
    return " ".join(opening.split()[:30])
