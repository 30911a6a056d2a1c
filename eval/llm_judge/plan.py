"""Plan of the judging: pairs in both orders with their controls, chats to rate, messages to label."""

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
from eval.llm_judge.questions import Item, act_item, chat_text, natural_item, which_item
from usersim.stats.estimates import rng_for
from usersim.types import Conversation

Kind = Literal["simulated", "human control", "simulated control"]
HUMAN = "human"


@dataclass(frozen=True)
class JudgedPair:
    """Pair of chats, asked in both orders. `target` is the simulated one; in a control, one of the two at random."""

    name: str
    kind: Kind
    forward: Item
    """Order in which the target is second."""
    backward: Item
    cluster: str
    same_goal: bool


@dataclass(frozen=True)
class SampledItem:
    """Chat or message of one source."""

    source: str
    item: Item
    cluster: str
    after: frozenset[AssistantAct] = frozenset()
    """Acts of the reply before the message, by rules."""
    by_rule: UserAct | None = None


def pairs(
    human: Sequence[Conversation],
    simulated: Mapping[str, Sequence[Conversation]],
    n: int,
    *,
    seed: int,
    user_turns: int,
    replies: bool,
) -> list[JudgedPair]:
    """Returns up to `n` pairs for each simulator and for each control; no conversation occurs twice in one of them."""
    pair_list: list[JudgedPair] = []
    jobs: list[tuple[str, Kind, list[tuple[Conversation, Conversation, bool]]]] = []
    for name, conversations in simulated.items():
        jobs.append((name, "simulated", _matched(human, conversations, n, rng_for(seed, f"pairs {name}"))))
        jobs.append(
            (name, "simulated control", _control_pairs(conversations, n, rng_for(seed, f"control {name}")))
        )
    jobs.append((HUMAN, "human control", _control_pairs(human, n, rng_for(seed, "control human"))))
    for name, kind, conversation_pairs in jobs:
        for other, target, same_goal in conversation_pairs:
            turns = min(len(user_texts(other)), len(user_texts(target)), user_turns)
            texts = [chat_text(c, user_turns=turns, replies=replies) for c in (other, target)]
            forward, backward = which_item(*texts), which_item(*reversed(texts))
            pair_list.append(JudgedPair(name, kind, forward, backward, person_of(other), same_goal))
    return pair_list


def _matched(
    human: Sequence[Conversation], simulated: Sequence[Conversation], n: int, rng: np.random.Generator
) -> list[tuple[Conversation, Conversation, bool]]:
    """Pairs each simulated conversation with a human one of the same goal, else of the same language, else with
    none."""
    unused = [human[i] for i in rng.permutation(len(human))]
    by_goal: dict[str, list[Conversation]] = defaultdict(list)
    for person in unused:
        if goal := _goal(person):
            by_goal[goal].append(person)
    used_ids: set[int] = set()
    conversation_pairs: list[tuple[Conversation, Conversation, bool]] = []
    for conversation in (simulated[i] for i in rng.permutation(len(simulated))):
        same_goal_partners = [p for p in by_goal.get(_goal(conversation), ()) if id(p) not in used_ids]
        same_language_partners = (
            p for p in unused if id(p) not in used_ids and _language(p) == _language(conversation)
        )
        partner = same_goal_partners[0] if same_goal_partners else next(same_language_partners, None)
        if partner is not None and len(conversation_pairs) < n:
            used_ids.add(id(partner))
            conversation_pairs.append((partner, conversation, bool(same_goal_partners)))
    return conversation_pairs


def _control_pairs(
    conversations: Sequence[Conversation], n: int, rng: np.random.Generator
) -> list[tuple[Conversation, Conversation, bool]]:
    """Pairs conversations of one kind, by different people (or of different tasks), in the same language."""
    tasks = task_clusters(conversations)
    owners = [
        person_of(c) if c.origin == "human" else task for c, task in zip(conversations, tasks, strict=True)
    ]
    order = sorted(rng.permutation(len(conversations)), key=lambda i: _language(conversations[i]))
    conversation_pairs: list[tuple[Conversation, Conversation, bool]] = []
    for left, right in list(pairwise(order))[::2]:
        a, b = conversations[left], conversations[right]
        if owners[left] != owners[right] and _language(a) == _language(b):
            conversation_pairs.append((a, b, False))
    return [conversation_pairs[i] for i in rng.permutation(len(conversation_pairs))[:n]]


def _goal(conversation: Conversation) -> str:
    goal = conversation.profile.goal
    return " ".join(goal.summary.lower().split()) if goal else ""


def _language(conversation: Conversation) -> str:
    persona = conversation.profile.persona
    return (persona.language if persona else "en").lower().partition("-")[0]


def chats(
    sources: Mapping[str, Sequence[Conversation]], n: int, *, seed: int, user_turns: int, replies: bool
) -> list[SampledItem]:
    """Samples up to `n` conversations of every source."""
    return [
        SampledItem(name, natural_item(conversations[i], user_turns=user_turns, replies=replies), clusters[i])
        for name, conversations in sources.items()
        for clusters in [_clusters(conversations)]
        for i in rng_for(seed, f"chats {name}").permutation(len(conversations))[:n]
    ]


def messages(sources: Mapping[str, Sequence[Conversation]], n: int, *, seed: int) -> list[SampledItem]:
    """Samples up to `n` messages of every source from as many conversations as possible; English only, like the
    rules."""
    samples: list[SampledItem] = []
    for name, conversations in sources.items():
        rng, clusters, rounds = (
            rng_for(seed, f"messages {name}"),
            _clusters(conversations),
            list[tuple[float, SampledItem]](),
        )
        for conversation, cluster in zip(conversations, clusters, strict=True):
            answered = [e for e in exchanges(conversation) if e.reply is not None]
            for turn, index in enumerate(rng.permutation(len(answered))):
                exchange = answered[index]
                item = act_item(exchange.user_turns, exchange.answers[-1], exchange.reply or "")
                sampled = SampledItem(name, item, cluster, exchange.acts, user_act(exchange))
                rounds.append((turn + float(rng.random()), sampled))  # the first of each, then the second …
        samples += [sampled for _, sampled in sorted(rounds, key=lambda r: r[0])[:n]]
    return samples


def _clusters(conversations: Sequence[Conversation]) -> list[str]:
    if conversations and conversations[0].origin == "human":
        return [person_of(c) for c in conversations]
    return task_clusters(conversations)
