"""Early stopping of candidates that are clearly worse than the best (off unless `RolloutConfig.racing` is set)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean, stdev

FIRST_LOOK = 3
"""Minimum pairs of futures for a decision."""


class Race:
    """Successive elimination of candidates (Even-Dar, Mannor & Mansour 2006, JMLR 7) for one context.

    The interval is that of a blocking race (Moore & Lee 1994, ICML). Future j has the same seeds for every candidate,
    so differences at equal j are compared, which vary less than the rewards.

    A candidate is out when the mean difference to the leader is above zero by a one-sided Student's t test at level
    1 - δ/m. Here m is the number of possible comparisons: candidates - 1, times the looks. So the chance of a wrong
    stop stays below δ if differences are about normal. Differences without any spread decide nothing. The reward of a
    stopped candidate is the mean over its finished futures.
    """

    def __init__(self, candidates: int, futures: int, delta: float) -> None:
        looks = max(1, futures - FIRST_LOOK + 1)
        self.level = 1 - delta / max(1, (candidates - 1) * looks)
        self.futures = futures
        self.rewards: list[dict[int, float]] = [{} for _ in range(candidates)]
        self.out = set[int]()

    def add(self, candidate: int, index: int, reward: float) -> set[int]:
        """Adds a reward and returns the candidates whose remaining futures are no longer needed."""
        self.rewards[candidate][index] = reward
        running = [c for c in range(len(self.rewards)) if c not in self.out and self.rewards[c]]
        leader = max(running, key=lambda c: fmean(self.rewards[c].values()))
        eliminated = {c for c in running if c != leader and self._beats(leader, c)}
        self.out |= eliminated
        leader_is_alone = len(self.out) == len(self.rewards) - 1
        return eliminated | ({leader} if eliminated and leader_is_alone else set())

    def _beats(self, leader: int, other: int) -> bool:
        return surely_above(self.rewards[leader], self.rewards[other], self.level)


def surely_above(first: Mapping[int, float], second: Mapping[int, float], level: float) -> bool:
    """True if the mean paired difference is above zero by a one-sided Student's t test at `level`."""
    from scipy.stats import t  # type: ignore[import-untyped]

    differences = [first[index] - second[index] for index in first.keys() & second.keys()]
    if len(differences) < FIRST_LOOK:
        return False
    spread = stdev(differences) / math.sqrt(len(differences))
    return spread > 0 and fmean(differences) > float(t.ppf(level, len(differences) - 1)) * spread
