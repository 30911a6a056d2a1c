"""Verdicts on metrics: interval, excess over the human baseline, p-value and equivalence.

*Interval.* Distances between samples are positive even for equal populations, and larger for small samples. No
correction removes that bias from a value. The estimand is the metric that two samples *of this size* give on average,
E[d(S_n, H_n)]. The human baseline, d(H_n, H'_n) between disjoint people, has the same bias, so their difference, the
excess, is what is read. Resampling adds the sampling noise a second time and so moves a distance up (coverage: down).
The replicates are therefore centred on the value before percentiles are taken.

Where a simulator is far from human, the interval covers the estimand in 95 % of repetitions. Near the baseline a
distance is as large as its noise and its bootstrap is not consistent (Andrews 2000); there the interval is too wide
and covers more. Too wide is the safe side: it costs power and never adds a false "different". A metric in human
standard deviations uses those of the conversations at hand, as its baseline does: the unit is fixed and its noise is
in no interval.

*Difference.* Each metric has a one-sided p of "no excess": the share of human splits at least as far out. `repeats`
splits can only show "below 1 / (repeats + 1)"; where no split is as far out, the normal tail of the bootstrap gives
the p-value. Holm's (1979) step-down over the metrics keeps the probability of any false "different" at 5 %. The
headline does not use these p-values. It is a max statistic over the shared splits (`eval.fidelity.report_record`),
which accounts for the dependence of the metrics and has more power.

*Equivalence* needs evidence as a difference does: the whole excess interval must lie below a margin δ in the metric's
own unit, fixed beforehand (`eval.fidelity.margins`). All other metrics are inconclusive, which is not the same as
equal. An AUC is tested on both sides: its interval must lie within ±δ, and an AUC well below the baseline is
different too. Where a simulator repeats human conversations nearly word for word
(`eval.fidelity.metrics.texts.copies`), none of its metrics is called equivalent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from eval.fidelity.margins import margin_of
from eval.fidelity.settings import TRUSTED_N, EvalConfig
from usersim.stats.estimates import (
    Z95,
    Draws,
    Estimate,
    Figure,
    FigureSpec,
    Floats,
    Floor,
    Measured,
    Verdict,
    floor_of,
    interval,
)

ALPHA = 0.05
KNOWN_SHARE = 0.5
"""Share of its splits and of its resamples that a metric needs; with fewer, the measurable ones are a biased selection.
"""


def floor_width(floor: Floor, worse: str) -> float:
    """Returns the distance from the baseline's median to its far end: 1 is the edge of human variation."""
    return floor.high - floor.median if worse == "higher" else floor.median - floor.low


def why_missing(measured: Measured | None, floor: Floats | None) -> str | None:
    """Returns the reason why a metric cannot be judged; None where it can."""
    if measured is None or not np.isfinite(measured.value):
        return "these conversations hold nothing to measure it on"
    if floor is None or np.isfinite(floor).mean() < KNOWN_SHARE:
        return "most halves of the human conversations hold nothing to measure it on, so it has no human baseline"
    if np.isfinite(measured.replicates).mean() < KNOWN_SHARE:
        return "most resamples hold nothing to measure it on, so it has no interval"
    return None


def judge(
    spec: FigureSpec,
    measured: Measured,
    floor_values: Floats,
    n: int,
    config: EvalConfig | None = None,
    *,
    draws: Draws | None = None,
) -> Figure:
    """Returns the metric with its own verdict; `together` adjusts for the other metrics.

    "different" needs p ≤ 0.05, an interval of the excess above zero *and* a value beyond the baseline's 97.5 %
    quantile. So two human halves are called different in at most 2.5 % of comparisons.

    Args:
        floor_values: The metric between human halves, one a split.
        draws: Resamples behind the replicates, needed for `interval = "bca"`; without them the interval is of
            percentiles.
    """
    config = config or EvalConfig()
    floor, sign = floor_of(floor_values), 1.0 if spec.worse == "higher" else -1.0
    is_finite = np.isfinite(measured.replicates)
    replicates = measured.replicates[is_finite] - np.median(measured.replicates[is_finite]) + measured.value
    low, high = interval(replicates)
    if config.interval == "bca" and draws is not None and len(is_finite) == len(draws.human_BN):
        low, high = accelerated(replicates, influence(draws, measured.replicates))
    excess = sign * (measured.value - floor.median)
    ends = sorted((sign * (low - floor.median), sign * (high - floor.median)))
    is_inside = measured.value <= floor.high if sign > 0 else measured.value >= floor.low
    spread = float(replicates.std())
    p = p_of_excess(sign * (floor_values - measured.value), excess, spread)
    if spec.two_sided:
        is_inside = floor.low <= measured.value <= floor.high
        p = min(1.0, 2 * min(p, p_of_excess(sign * (measured.value - floor_values), -excess, spread)))
    metric = Figure(
        **spec.model_dump(),
        value=Estimate(value=measured.value, low=_clip(low, spec), high=_clip(high, spec), n=n),
        floor=floor,
        excess=Estimate(value=excess, low=ends[0], high=ends[1], n=n),
        inside_floor=is_inside,
        margin=margin_of(spec.key, config),
        p=p,
        p_holm=p,
        verdict="inconclusive",
    )
    return metric.model_copy(update={"verdict": _verdict(metric)})


def p_of_excess(beyond: Floats, excess: float, spread: float) -> float:
    """Returns the p-value of an excess; see the module docstring. `beyond` holds how much further out than the value
    each human split is."""
    beyond = beyond[np.isfinite(beyond)]
    hits = int((beyond >= 0).sum())
    exceedance = (hits + 1) / (len(beyond) + 1)
    if hits:
        return exceedance
    tail = math.erfc(excess / spread / math.sqrt(2)) / 2 if spread > 0 else 0.0
    return min(exceedance, max(tail, 1e-12))


def together(metrics: Sequence[Figure]) -> list[Figure]:
    """Returns the metrics with Holm's adjustment and the verdicts that follow. Headline metrics and second views are
    separate families of tests."""
    adjusted: dict[str, float] = {}
    for headline in (True, False):
        family = [metric for metric in metrics if metric.headline == headline]
        adjusted |= dict(zip([f.key for f in family], holm([f.p for f in family]), strict=True))
    adjusted_metrics = [metric.model_copy(update={"p_holm": adjusted[metric.key]}) for metric in metrics]
    return [metric.model_copy(update={"verdict": _verdict(metric)}) for metric in adjusted_metrics]


def holm(p: Sequence[float]) -> list[float]:
    """Returns Holm's adjusted p-values in the order of the input: the smallest of m times m, the next times m - 1 …,
    never falling."""
    m, running = len(p), 0.0
    adjusted = [0.0] * m
    for rank, index in enumerate(sorted(range(m), key=lambda i: p[i])):
        running = max(running, min(1.0, (m - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def _verdict(metric: Figure) -> Verdict:
    if metric.value.n < TRUSTED_N:
        return "too few"
    is_apart = metric.excess.low > 0 or (metric.two_sided and metric.excess.high < 0)
    if metric.p_holm <= ALPHA and is_apart and not metric.inside_floor:
        return "different"
    is_near = (
        metric.margin > 0
        and metric.excess.high < metric.margin
        and not (metric.two_sided and metric.excess.low <= -metric.margin)
    )
    return "equivalent" if is_near else "inconclusive"


def without_equivalence(metric: Figure) -> Figure:
    """Returns the metric with "equivalent" replaced by "inconclusive", for a simulator that repeats the people it is
    compared with."""
    return metric.model_copy(update={"verdict": "inconclusive"}) if metric.verdict == "equivalent" else metric


def influence(draws: Draws, replicates: Floats) -> Floats:
    """Returns the influence of every cluster on both sides, up to a factor. It is the covariance of the cluster's count
    with the replicates: the infinitesimal jackknife from resamples (Efron 2014, eq. 3.4)."""
    is_finite = np.isfinite(replicates)
    gap = replicates[is_finite] - replicates[is_finite].mean()
    sides = [np.unique(counts[is_finite], axis=1) for counts in (draws.simulated_BN, draws.human_BN)]
    return np.concatenate([(side - side.mean(0)).T @ gap / len(gap) for side in sides])


def accelerated(replicates: Floats, influence_G: Floats) -> tuple[float, float]:
    """Returns Efron's (1987) BCa interval. The replicates are centred, so the bias correction z0 is zero and only the
    acceleration is left. Noise in the influence shrinks it towards zero, which gives the percentile interval."""
    total = float((influence_G**2).sum())
    a = float((influence_G**3).sum()) / (6 * total**1.5) if total > 0 else 0.0
    shares = [NormalDist().cdf(z / (1 - a * z)) for z in (-Z95, Z95)]
    low, high = np.quantile(replicates, shares)
    return float(low), float(high)


def _clip(value: float, spec: FigureSpec) -> float:
    value = value if spec.least is None else max(spec.least, value)
    return value if spec.most is None else min(spec.most, value)
