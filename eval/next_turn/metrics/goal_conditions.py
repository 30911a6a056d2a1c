"""Goal conditions of a simulator: the person's own goal, none, or one with an uninformative number of facets.

Goals were written from finished conversations: every facet was said in the end, so their number predicts the end. A
count-neutral goal drops facets that the person said and adds facets that the person never said. The resulting number
is uniform over 1 to 4 in every conversation, so that counting facets gives no information.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from eval.next_turn.metrics.leaving import LeavingMetrics
from eval.next_turn.metrics.values import Values
from eval.next_turn.prefixes import Prefix
from usersim.errors import DataError
from usersim.stats.estimates import rng_for
from usersim.storage.records import read_jsonl
from usersim.text.embeddings import embed
from usersim.types import Facet, Goal

GoalCondition = Literal["own", "none", "count_neutral"]
CONDITIONS: tuple[GoalCondition, ...] = get_args(GoalCondition)
MOST_ADDED = 3
MOST_FACETS = MOST_ADDED + 1
"""Maximum number of facets: that of a goal of one facet plus `MOST_ADDED`."""
Unsaid = Mapping[str, Sequence[str]]
"""By conversation: facets that fit the goal and that the person never said."""


def read_unsaid(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Reads the field `unsaid` of an annotation file (JSON Lines with `id`); conversations without it are left out.

    Raises:
        DataError: A line has no `id`, or `unsaid` is not a list of texts.
    """
    unsaid: dict[str, tuple[str, ...]] = {}
    for number, line in read_jsonl(path):
        if not isinstance(line, dict) or not isinstance(line.get("id"), str):
            raise DataError(f"{path}:{number}: the annotation has no id")
        texts = line.get("unsaid", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"{path}:{number}: unsaid must be a list of texts")
        if texts:
            unsaid.setdefault(line["id"], tuple(text.strip() for text in texts))
    return unsaid


def under_condition(
    prefixes: Sequence[Prefix], condition: GoalCondition, *, unsaid: Unsaid | None = None, seed: int = 0
) -> list[Prefix]:
    """Returns the same prefixes under another goal; all prefixes of a conversation get the same goal.

    Args:
        prefixes: Prefixes under people's own goals.
        condition: own: unchanged. none: no goal. count_neutral: see the module; goals without facets are unchanged.

        unsaid: Facets that people never said (`read_unsaid`). If there are too few, those of the nearest other goal of
            the same source are added.

        seed: Determines a conversation's goal with the conversation's id. Only added facets of the nearest other goal
            depend on the other prefixes.
    """
    if condition == "own":
        return list(prefixes)
    if condition == "none":
        return [prefix.model_copy(update={"goal": None}) for prefix in prefixes]
    goals = _count_neutral(prefixes, unsaid or {}, seed)
    return [
        prefix.model_copy(update={"goal": goals.get(prefix.conversation, prefix.goal)}) for prefix in prefixes
    ]


def counting_gain(prefixes: Sequence[Prefix], *, seed: int = 0) -> tuple[LeavingMetrics, Values]:
    """Log-loss saved by counting facets in addition to the turn number, over prefixes under a condition.

    Under people's own goals it is well above 0. Under count-neutral goals it must be near 0, which checks them.
    Prefixes without facets are left out.
    """
    faceted = [prefix for prefix in prefixes if prefix.goal is not None and prefix.goal.facets]
    metrics = LeavingMetrics(faceted, seed=seed)
    return metrics, metrics.counting_gain() if metrics.prefixes else Values.of([])


def _count_neutral(prefixes: Sequence[Prefix], unsaid: Unsaid, seed: int) -> dict[str, Goal]:
    """Count-neutral goals by conversation, for goals with facets."""
    own = {p.conversation: p.goal for p in prefixes if p.goal is not None and p.goal.facets}
    goals = {}
    for conversation, spare in spare_facets(prefixes, unsaid).items():
        rng, goal = rng_for(seed, f"count-neutral goal {conversation}"), own[conversation]
        goals[conversation] = goal.model_copy(update={"facets": _chosen(goal.facets, spare, rng)})
    return goals


def spare_facets(prefixes: Sequence[Prefix], unsaid: Unsaid) -> dict[str, list[str]]:
    """Returns facets that could be added, by conversation whose goal has facets.

    Unsaid facets come first, then those of the nearest goals of other people of the same source.
    """
    faceted = [p for p in prefixes if p.goal is not None and p.goal.facets]
    own = {p.conversation: (p.goal, p.cluster) for p in faceted if p.goal is not None}
    foreign: dict[str, list[str]] = {}
    for source in sorted({p.source for p in faceted}):
        here = {p.conversation: own[p.conversation] for p in faceted if p.source == source}
        foreign |= _foreign_facets(here, unsaid)
    return {
        conversation: _distinct([*unsaid.get(conversation, ()), *foreign.get(conversation, ())], goal)
        for conversation, (goal, _) in own.items()
    }


def _chosen(own: Sequence[Facet], spare: Sequence[str], rng: np.random.Generator) -> tuple[Facet, ...]:
    """1 to 4 facets in random order, with equal probabilities for any number of facets that were said."""
    total = int(rng.integers(1, MOST_FACETS + 1))
    least, most = max(0, total - len(own)), min(MOST_ADDED, total - 1)
    added = min(int(rng.integers(least, most + 1)), len(spare))
    remaining = [own[i] for i in rng.permutation(len(own))[: total - added]]
    facets = [*remaining, *(Facet(text) for text in spare[:added])]
    return tuple(facets[i] for i in rng.permutation(len(facets)))


def _foreign_facets(own: Mapping[str, tuple[Goal, str]], unsaid: Unsaid) -> dict[str, list[str]]:
    """Facets of the nearest goals of other people of one source, for conversations with too few unsaid facets."""
    lacking = [name for name in own if len(unsaid.get(name, ())) < MOST_ADDED]
    if not lacking or len(own) < 2:
        return {}
    names = list(own)
    vectors = embed([own[name][0].summary for name in names])
    place = {name: index for index, name in enumerate(names)}
    foreign: dict[str, list[str]] = {}
    for name in lacking:
        near = np.argsort(-(vectors @ vectors[place[name]]), kind="stable")
        others = (own[names[i]] for i in near if own[names[i]][1] != own[name][1])
        texts: list[str] = []
        for goal, _ in others:
            texts += [facet.text for facet in goal.facets]
            if len(_distinct(texts, own[name][0])) >= MOST_ADDED:
                break
        foreign[name] = texts
    return foreign


def _distinct(texts: Sequence[str], goal: Goal) -> list[str]:
    """Facets without duplicates and without those of the goal."""
    texts_lower = {facet.text.lower() for facet in goal.facets}
    distinct = []
    for text in texts:
        if text.lower() not in texts_lower:
            texts_lower.add(text.lower())
            distinct.append(text)
    return distinct
