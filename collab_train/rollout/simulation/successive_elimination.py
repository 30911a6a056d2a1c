"""Stopping the futures of candidates that are already decided (off unless `RolloutConfig.racing` is set)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, stdev

FIRST_LOOK = 3
"""Pairs of futures before anything is decided."""


class Race:
    """Which candidates of one context are surely worse than its leader.

    Successive elimination (Even-Dar, Mannor & Mansour 2006, JMLR 7) with the interval of a blocking race (Moore & Lee
    1994, ICML): future j of every candidate has the same seeds, so differences of equal j are compared, whose spread
    is smaller than that of either. A candidate is out when the mean difference to the leader lies above zero by
    Student's t at 1 - δ/m, one-sided; m counts the comparisons that may be made (candidates - 1, times the looks), so
    that the chance of a wrong stop stays below δ where differences are about normal. Differences without any spread
    decide nothing. The reward of a stopped candidate is the mean over the futures it had.
    """

    def __init__(self, candidates: int, futures: int, delta: float) -> None:
        looks = max(1, futures - FIRST_LOOK + 1)
        self.level = 1 - delta / max(1, (candidates - 1) * looks)
        self.futures = futures
        self.rewards: list[dict[int, float]] = [{} for _ in range(candidates)]
        self.out = set[int]()

    def add(self, candidate: int, index: int, reward: float) -> set[int]:
        """The candidates whose remaining futures are not needed any more, now that this reward is known."""
        self.rewards[candidate][index] = reward
        running = [c for c in range(len(self.rewards)) if c not in self.out and self.rewards[c]]
        leader = max(running, key=lambda c: fmean(self.rewards[c].values()))
        fresh = {c for c in running if c != leader and self._beats(leader, c)}
        self.out |= fresh
        alone = len(self.out) == len(self.rewards) - 1
        return fresh | ({leader} if fresh and alone else set())

    def _beats(self, leader: int, other: int) -> bool:
        return surely_above(self.rewards[leader], self.rewards[other], self.level)


def surely_above(one: Mapping[int, float], other: Mapping[int, float], level: float) -> bool:
    """Whether the mean of the paired differences lies above zero by Student's t at `level`, one-sided."""
    from scipy.stats import t  # type: ignore[import-untyped]

    differences = [one[index] - other[index] for index in one.keys() & other.keys()]
    if len(differences) < FIRST_LOOK:
        return False
    spread = stdev(differences) / math.sqrt(len(differences))
    return spread > 0 and fmean(differences) > float(t.ppf(level, len(differences) - 1)) * spread
