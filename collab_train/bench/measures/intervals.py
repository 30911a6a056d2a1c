"""95 % intervals of means, shares, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from usersim.types import Record

RESAMPLES = 4000


class IntervalEstimate(Record):
    value: float
    low: float | None = None
    """Lower bound. None, as is `high`, for fewer than two values."""
    high: float | None = None
    n: int
    """Number of contexts or requests."""


def mean(values: Sequence[float]) -> IntervalEstimate:
    """Mean with the percentile bootstrap interval over `values` (Efron 1979), with a fixed seed.

    Equal values give an interval of zero width.
    """
    samples = np.asarray(values, dtype=float)
    if len(samples) < 2:
        return IntervalEstimate(value=float(samples.mean()), n=len(samples))
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    interval = bootstrap(
        (samples,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return IntervalEstimate(
        value=float(samples.mean()), low=float(interval.low), high=float(interval.high), n=len(samples)
    )


def share(hits: Sequence[bool]) -> IntervalEstimate:
    """Share of hits with Wilson's score interval, which stays valid at shares of 0 and 1."""
    from scipy.stats import binomtest

    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return IntervalEstimate(
        value=sum(hits) / len(hits), low=float(interval.low), high=float(interval.high), n=len(hits)
    )


def macro(first: IntervalEstimate, second: IntervalEstimate) -> IntervalEstimate:
    """Mean of two independent estimates, with an interval from theirs (MOVER: Zou and Donner 2008)."""
    value = (first.value + second.value) / 2
    down = math.hypot(first.value - _low(first), second.value - _low(second)) / 2
    up = math.hypot(_high(first) - first.value, _high(second) - second.value) / 2
    return IntervalEstimate(value=value, low=value - down, high=value + up, n=first.n + second.n)


def share_difference(first: Sequence[bool], second: Sequence[bool]) -> IntervalEstimate:
    """Difference first - second of two shares over the same cases (Newcombe 1998, paired data, method 10)."""
    cases = list(zip(first, second, strict=True))
    a, b = share(first), share(second)
    both, only_first, only_second, neither = (
        sum(case == kind for case in cases)
        for kind in ((True, True), (True, False), (False, True), (False, False))
    )
    phi = _correlation(both, only_first, only_second, neither)
    gap = a.value - b.value
    down = _half_width(a.value - _low(a), _high(b) - b.value, phi)
    up = _half_width(_high(a) - a.value, b.value - _low(b), phi)
    return IntervalEstimate(value=gap, low=gap - down, high=gap + up, n=len(cases))


def _half_width(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(0.0, first**2 - 2 * phi * first * second + second**2))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the 2 x 2 table, with Newcombe's continuity correction where positive; 0 if all answers are equal."""
    spread = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not spread:
        return 0.0
    gap: float = both * neither - only_first * only_second
    if gap > 0:
        gap = max(gap - (both + only_first + only_second + neither) / 2, 0.0)
    return gap / math.sqrt(spread)


def _low(estimate: IntervalEstimate) -> float:
    return estimate.value if estimate.low is None else estimate.low


def _high(estimate: IntervalEstimate) -> float:
    return estimate.value if estimate.high is None else estimate.high
