"""Results of a run of `usersim collab mr` or `pairs`, and their summary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import Any

from collab_train.contexts import Context
from collab_train.rollout.accounting.results import CandidateMR, ContextMR, total_cost
from collab_train.rollout.simulation.best_path import PathStep
from collab_train.rollout.simulation.candidates import Candidate

FAILURES_SHOWN = 10


@dataclass(frozen=True)
class ScoredRun:
    steps: list[list[PathStep]]
    """Steps of each context, one per assistant turn."""
    failed_candidates: list[Candidate]
    resumed: int
    """Number of futures that were already in the run directory."""
    wall_s: float
    cost: dict[str, Any]

    @property
    def scored(self) -> list[PathStep]:
        """Steps of all contexts, except those without a candidate."""
        return [step for step in chain.from_iterable(self.steps) if step.result.candidates]

    @property
    def contexts(self) -> list[Context]:
        """Contexts with their candidates, in the order of `results`."""
        return [step.context for step in self.scored]

    @property
    def results(self) -> list[ContextMR]:
        return [step.result for step in self.scored]


def summarise(scored: ScoredRun) -> dict[str, Any]:
    candidates = [c for result in scored.results for c in result.candidates]
    rewards = [c.mr for c in candidates if c.mr is not None]
    cost = total_cost([c.cost for c in candidates])
    futures = sum(c.n + c.failed for c in candidates)
    simulated = futures - scored.resumed
    return {
        "contexts": len(scored.results),
        "candidates": len(candidates),
        "candidates_without_mr": sum(c.mr is None for c in candidates),
        "candidates_not_sampled": len(scored.failed_candidates),
        "mean_mr": fmean(rewards),
        "futures": futures,
        "futures_failed": sum(c.failed for c in candidates),
        "failures": failures(scored),
        "futures_stopped": sum(c.stopped for c in candidates),
        "futures_resumed": scored.resumed,
        "wall_s": round(scored.wall_s, 2),
        "futures_per_minute": round(60 * simulated / scored.wall_s, 3),
        **cost.model_dump(),
        "tokens": scored.cost,
    }


def failures(scored: ScoredRun) -> dict[str, int]:
    """Counts the errors of futures and of candidate sampling, most common first."""
    counts = Counter[str]()
    for candidate in chain.from_iterable(result.candidates for result in scored.results):
        counts.update(candidate.failures)
    counts.update(candidate.error or "" for candidate in scored.failed_candidates)
    return dict(counts.most_common(FAILURES_SHOWN))


def best_first(result: ContextMR) -> list[CandidateMR]:
    """Sorts candidates by decreasing reward; those without one come last."""
    return sorted(result.candidates, key=lambda c: (c.mr is None, -(c.mr or 0.0)))
