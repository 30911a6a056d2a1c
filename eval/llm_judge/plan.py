"""What is put before the judge: pairs in both orders with their controls, chats to rate, messages to label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from eval.fidelity.metrics.interaction.user_acts import UserAct, user_act
from eval.fidelity.samples.events import AssistantAct, exchanges
from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.matching import person_of, task_clusters
from eval.llm_judge.questions import Item, act_item, natural_item, shown, which_item
from usersim.stats.estimates import rng_for
from usersim.types import Conversation

Kind = Literal["simulated", "human control", "simulated control"]
HUMAN = "human"


@dataclass(frozen=True)
class Pair:
    """`target` is the simulated one; in a control, one of the two by lot. Both orders are asked."""

    name: str
    kind: Kind
    forward: Item
    """The target second."""
    backward: Item
    cluster: str
    same_goal: bool


@dataclass(frozen=True)
class Sampled:
    """A chat or a message of one source."""

    source: str
    item: Item
    cluster: str
    after: frozenset[AssistantAct] = frozenset()
    """What the reply before did, by our rules."""
    by_rule: UserAct | None = None


def pairs(
    human: Sequence[Conversation],
    simulated: Mapping[str, Sequence[Conversation]],
    n: int,
    *,
    seed: int,
    user_turns: int,
    replies: bool,
) -> list[Pair]:
    """Up to `n` pairs for each simulator and as many for each control, no conversation twice in one of them."""
    found: list[Pair] = []
    jobs: list[tuple[str, Kind, list[tuple[Conversation, Conversation, bool]]]] = []
    for name, made in simulated.items():
        jobs.append((name, "simulated", _matched(human, made, n, rng_for(seed, f"pairs {name}"))))
        jobs.append((name, "simulated control", _within(made, n, rng_for(seed, f"control {name}"))))
    jobs.append((HUMAN, "human control", _within(human, n, rng_for(seed, "control human"))))
    for name, kind, couples in jobs:
        for other, target, same_goal in couples:
            turns = min(len(user_texts(other)), len(user_texts(target)), user_turns)
            texts = [shown(c, user_turns=turns, replies=replies) for c in (other, target)]
            forward, backward = which_item(*texts), which_item(*reversed(texts))
            found.append(Pair(name, kind, forward, backward, person_of(other), same_goal))
    return found


def _matched(
    human: Sequence[Conversation], simulated: Sequence[Conversation], n: int, rng: np.random.Generator
) -> list[tuple[Conversation, Conversation, bool]]:
    """Each simulated one with a human one of its goal, else of its language, else none."""
    unused = [human[i] for i in rng.permutation(len(human))]
    by_goal: dict[str, list[Conversation]] = defaultdict(list)
    for person in unused:
        if goal := _goal(person):
            by_goal[goal].append(person)
    taken: set[int] = set()
    couples: list[tuple[Conversation, Conversation, bool]] = []
    for made in (simulated[i] for i in rng.permutation(len(simulated))):
        same = [p for p in by_goal.get(_goal(made), ()) if id(p) not in taken]
        rest = (p for p in unused if id(p) not in taken and _language(p) == _language(made))
        partner = same[0] if same else next(rest, None)
        if partner is not None and len(couples) < n:
            taken.add(id(partner))
            couples.append((partner, made, bool(same)))
    return couples


def _within(
    conversations: Sequence[Conversation], n: int, rng: np.random.Generator
) -> list[tuple[Conversation, Conversation, bool]]:
    """Pairs of one kind, by different people (or for different tasks) in the same language."""
    tasks = task_clusters(conversations)
    owners = [
        person_of(c) if c.origin == "human" else task for c, task in zip(conversations, tasks, strict=True)
    ]
    order = sorted(rng.permutation(len(conversations)), key=lambda i: _language(conversations[i]))
    couples: list[tuple[Conversation, Conversation, bool]] = []
    for left, right in list(pairwise(order))[::2]:
        a, b = conversations[left], conversations[right]
        if owners[left] != owners[right] and _language(a) == _language(b):
            couples.append((a, b, False))
    return [couples[i] for i in rng.permutation(len(couples))[:n]]


def _goal(conversation: Conversation) -> str:
    goal = conversation.profile.goal
    return " ".join(goal.summary.lower().split()) if goal else ""


def _language(conversation: Conversation) -> str:
    persona = conversation.profile.persona
    return (persona.language if persona else "en").lower().partition("-")[0]


def chats(
    sources: Mapping[str, Sequence[Conversation]], n: int, *, seed: int, user_turns: int, replies: bool
) -> list[Sampled]:
    """Up to `n` conversations of every source."""
    return [
        Sampled(name, natural_item(made[i], user_turns=user_turns, replies=replies), clusters[i])
        for name, made in sources.items()
        for clusters in [_clusters(made)]
        for i in rng_for(seed, f"chats {name}").permutation(len(made))[:n]
    ]


def messages(sources: Mapping[str, Sequence[Conversation]], n: int, *, seed: int) -> list[Sampled]:
    """Up to `n` messages of every source, as many conversations as possible; English only, as the rules are."""
    found: list[Sampled] = []
    for name, made in sources.items():
        rng, clusters, rounds = (
            rng_for(seed, f"messages {name}"),
            _clusters(made),
            list[tuple[float, Sampled]](),
        )
        for conversation, cluster in zip(made, clusters, strict=True):
            answered = [e for e in exchanges(conversation) if e.reply is not None]
            for turn, place in enumerate(rng.permutation(len(answered))):
                one = answered[place]
                item = act_item(one.user_turns, one.answers[-1], one.reply or "")
                sampled = Sampled(name, item, cluster, one.acts, user_act(one))
                rounds.append((turn + float(rng.random()), sampled))  # the first of each, then the second …
        found += [sampled for _, sampled in sorted(rounds, key=lambda r: r[0])[:n]]
    return found


def _clusters(conversations: Sequence[Conversation]) -> list[str]:
    if conversations and conversations[0].origin == "human":
        return [person_of(c) for c in conversations]
    return task_clusters(conversations)
