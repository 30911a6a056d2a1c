"""95 % intervals of means, shares, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from usersim.types import Record

RESAMPLES = 4000


class Estimate(Record):
    value: float
    low: float | None = None
    """None, with `high`, where fewer than two values say nothing about their spread."""
    high: float | None = None
    n: int
    """Contexts, or requests."""


def mean(values: Sequence[float]) -> Estimate:
    """With the percentile bootstrap over `values` (Efron 1979), always the same resamples. Equal values give an
    interval without width."""
    known = np.asarray(values, dtype=float)
    if len(known) < 2:
        return Estimate(value=float(known.mean()), n=len(known))
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    found = bootstrap(
        (known,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Estimate(value=float(known.mean()), low=float(found.low), high=float(found.high), n=len(known))


def share(hits: Sequence[bool]) -> Estimate:
    """With Wilson's score interval, which stays honest at 0 and at 1."""
    from scipy.stats import binomtest

    found = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return Estimate(value=sum(hits) / len(hits), low=float(found.low), high=float(found.high), n=len(hits))


def macro(first: Estimate, second: Estimate) -> Estimate:
    """Mean of two independent figures, from their intervals (MOVER: Zou and Donner 2008)."""
    value = (first.value + second.value) / 2
    down = math.hypot(first.value - _low(first), second.value - _low(second)) / 2
    up = math.hypot(_high(first) - first.value, _high(second) - second.value) / 2
    return Estimate(value=value, low=value - down, high=value + up, n=first.n + second.n)


def share_difference(first: Sequence[bool], second: Sequence[bool]) -> Estimate:
    """first - second of two shares over the same cases (Newcombe 1998, paired data, method 10)."""
    cases = list(zip(first, second, strict=True))
    a, b = share(first), share(second)
    both, only_first, only_second, neither = (
        sum(case == kind for case in cases)
        for kind in ((True, True), (True, False), (False, True), (False, False))
    )
    phi = _correlation(both, only_first, only_second, neither)
    gap = a.value - b.value
    down = _side(a.value - _low(a), _high(b) - b.value, phi)
    up = _side(_high(a) - a.value, b.value - _low(b), phi)
    return Estimate(value=gap, low=gap - down, high=gap + up, n=len(cases))


def _side(own: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, own**2 - 2 * phi * own * other + other**2))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the 2 x 2 table, with Newcombe's continuity correction where it is positive; 0 without spread."""
    spread = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not spread:
        return 0.0
    gap: float = both * neither - only_first * only_second
    if gap > 0:
        gap = max(gap - (both + only_first + only_second + neither) / 2, 0.0)
    return gap / math.sqrt(spread)


def _low(estimate: Estimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _high(estimate: Estimate) -> float:
    return estimate.value if estimate.high is None else estimate.high
