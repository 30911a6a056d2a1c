"""Conversation ends under changed goals: Brier skill of P(end), and its shift when facets are added to the goal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.next_turn.metrics.goal_conditions import Unsaid, spare_facets
from eval.next_turn.metrics.leaving import LeavingMetrics
from eval.next_turn.metrics.values import ClusterSums, Values, estimate
from eval.next_turn.prefixes import Prefix
from eval.next_turn.turns import NextTurn, SimulatedTurns
from eval.versions.teacher_forced import PrefixScore
from usersim.stats.estimates import Estimate
from usersim.types import Facet

ADDED_FACETS = 2


def brier_skills(
    prefixes: Sequence[Prefix], scores: Sequence[PrefixScore], *, seed: int = 0
) -> dict[str, Estimate]:
    """Brier skill of P(end) by baseline (constant, turn, facets, both); see `eval.next_turn.metrics.leaving`."""
    metrics = LeavingMetrics(prefixes, seed=seed)
    values = metrics.values(as_turns(prefixes, scores))
    return {
        key.removeprefix("leaving.skill."): estimate(metrics.sums(value))
        for key, value in values.items()
        if key.startswith("leaving.skill.")
    }


def as_turns(prefixes: Sequence[Prefix], scores: Sequence[PrefixScore]) -> SimulatedTurns:
    """Scores as `SimulatedTurns`, the input of the metrics. Only P(end) is real; the text is a placeholder."""
    return SimulatedTurns(
        "model",
        {
            prefix.id: NextTurn(prefix=prefix.id, text="-", end_probability=min(1.0, score.end_probability))
            for prefix, score in zip(prefixes, scores, strict=True)
        },
    )


def with_added_facets(prefixes: Sequence[Prefix], unsaid: Unsaid) -> list[Prefix]:
    """Prefixes at which people left, with `ADDED_FACETS` facets added to the goal that the person never said.

    Prefixes at which the person went on, or whose goal has no facets, are left out.
    """
    spare = spare_facets(prefixes, unsaid)
    changed = []
    for prefix in prefixes:
        texts = spare.get(prefix.conversation, [])[:ADDED_FACETS]
        if prefix.has_left and prefix.goal is not None and len(texts) == ADDED_FACETS:
            facets = (*prefix.goal.facets, *(Facet(text) for text in texts))
            changed.append(
                prefix.model_copy(update={"goal": prefix.goal.model_copy(update={"facets": facets})})
            )
    return changed


def shift(prefixes: Sequence[Prefix], own: Sequence[PrefixScore], added: Sequence[PrefixScore]) -> Estimate:
    """Mean P(end) with the added facets minus mean P(end) with the person's own goal, at the same ends."""
    change = [a.end_probability - o.end_probability for o, a in zip(own, added, strict=True)]
    values = Values(np.array(change), np.ones(len(change)))
    return estimate(ClusterSums.of(values, [prefix.cluster for prefix in prefixes]))
