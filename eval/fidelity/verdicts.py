"""What may be said of a figure: its interval, its excess over the human floor, and a verdict.

*What the interval is for.* Distances between samples are positive even for equal populations, and more so for
small samples. Nothing here tries to take that out of a value: the estimand is the figure that two samples *of this
size* show on average, E[d(S_n, H_n)], and the floor, d(H_n, H'_n) between disjoint people, carries the same bias.
Their difference, the excess, is what is read. Resampling adds the sampling noise a second time and so moves a
distance up (coverage: down); the replicates are therefore centred on the value before percentiles are taken. Where
a simulator is far from human, the interval covers the estimand in 95 % of repetitions; near the floor, where a
distance is the size of a noise and its bootstrap is known not to be consistent (Andrews 2000), it is too wide and
covers more. Too wide is the safe side: it costs power and never adds a false "different". A figure in human standard
deviations is in those of the conversations at hand, as its floor is: the unit is given and its noise is in no interval.

*What may be wrong.* Each figure has a one-sided p of "no excess": the share of human splits at least as far out.
`repeats` splits can only say "below 1 / (repeats + 1)"; where none is as far out, the normal tail of the bootstrap
says how much below. Holm's (1979) step-down over the figures keeps the chance of any false "different" at 5 %.
The headline does not use these: it is a max statistic over the shared splits (`eval.fidelity.report_record`),
which takes the dependence of the figures as it is and has more power.

*Equivalence* is claimed like a difference: the whole excess interval must lie below a margin δ in the figure's own
unit, chosen beforehand (`eval.fidelity.margins`). Everything else is inconclusive, which is not the same as
equal. An AUC is tested on both sides: its interval must lie within ±δ, and one well below the floor is
different too. Where a simulator
repeats human conversations nearly word for word (`eval.fidelity.metrics.texts.copies`), no figure of it is
called equivalent.
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
"""A figure needs at least this share of its splits and of its resamples; fewer would show only the lucky ones."""


def floor_width(floor: Floor, worse: str) -> float:
    """From the floor's median to its far end: 1 is the edge of what humans do."""
    return floor.high - floor.median if worse == "higher" else floor.median - floor.low


def why_missing(measured: Measured | None, floor: Floats | None) -> str | None:
    """Why a figure cannot be judged, in words; None where it can."""
    if measured is None or not np.isfinite(measured.value):
        return "these conversations hold nothing to measure it on"
    if floor is None or np.isfinite(floor).mean() < KNOWN_SHARE:
        return (
            "in most halves of the human conversations there is nothing to measure it on, so it has no floor"
        )
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
    """The figure by itself; `together` adjusts for its company.

    "different": p ≤ 0.05, the interval of the excess above zero *and* the value beyond the floor's 97.5 %. So two
    human halves are called different in 2.5 % of comparisons at most. `draws` are needed for `interval = "bca"`,
    and a replicate for each of them; without, the interval is of percentiles.
    """
    config = config or EvalConfig()
    floor, sign = floor_of(floor_values), 1.0 if spec.worse == "higher" else -1.0
    known = np.isfinite(measured.replicates)
    replicates = measured.replicates[known] - np.median(measured.replicates[known]) + measured.value
    low, high = interval(replicates)
    if config.interval == "bca" and draws is not None and len(known) == len(draws.human_BN):
        low, high = accelerated(replicates, influence(draws, measured.replicates))
    excess = sign * (measured.value - floor.median)
    ends = sorted((sign * (low - floor.median), sign * (high - floor.median)))
    inside = measured.value <= floor.high if sign > 0 else measured.value >= floor.low
    spread = float(replicates.std())
    p = p_of_excess(sign * (floor_values - measured.value), excess, spread)
    if spec.two_sided:
        inside = floor.low <= measured.value <= floor.high
        p = min(1.0, 2 * min(p, p_of_excess(sign * (measured.value - floor_values), -excess, spread)))
    figure = Figure(
        **spec.model_dump(),
        value=Estimate(value=measured.value, low=_clip(low, spec), high=_clip(high, spec), n=n),
        floor=floor,
        excess=Estimate(value=excess, low=ends[0], high=ends[1], n=n),
        inside_floor=inside,
        margin=margin_of(spec.key, config),
        p=p,
        p_holm=p,
        verdict="inconclusive",
    )
    return figure.model_copy(update={"verdict": _verdict(figure)})


def p_of_excess(beyond: Floats, excess: float, spread: float) -> float:
    """`beyond`: how much further out than the value each human split is. See the module's text."""
    beyond = beyond[np.isfinite(beyond)]
    hits = int((beyond >= 0).sum())
    exceedance = (hits + 1) / (len(beyond) + 1)
    if hits:
        return exceedance
    tail = math.erfc(excess / spread / math.sqrt(2)) / 2 if spread > 0 else 0.0
    return min(exceedance, max(tail, 1e-12))


def together(figures: Sequence[Figure]) -> list[Figure]:
    """Holm's adjustment and the verdicts that follow, in one family per headline and second views."""
    adjusted: dict[str, float] = {}
    for headline in (True, False):
        family = [figure for figure in figures if figure.headline == headline]
        adjusted |= dict(zip([f.key for f in family], holm([f.p for f in family]), strict=True))
    found = [figure.model_copy(update={"p_holm": adjusted[figure.key]}) for figure in figures]
    return [figure.model_copy(update={"verdict": _verdict(figure)}) for figure in found]


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order: the smallest of m times m, the next times m - 1 …, never falling."""
    m, running = len(p), 0.0
    adjusted = [0.0] * m
    for rank, index in enumerate(sorted(range(m), key=lambda i: p[i])):
        running = max(running, min(1.0, (m - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def _verdict(figure: Figure) -> Verdict:
    if figure.value.n < TRUSTED_N:
        return "too few"
    is_apart = figure.excess.low > 0 or (figure.two_sided and figure.excess.high < 0)
    if figure.p_holm <= ALPHA and is_apart and not figure.inside_floor:
        return "different"
    is_near = (
        figure.margin > 0
        and figure.excess.high < figure.margin
        and not (figure.two_sided and figure.excess.low <= -figure.margin)
    )
    return "equivalent" if is_near else "inconclusive"


def without_equivalence(figure: Figure) -> Figure:
    """Of a simulator that repeats the people it is compared with."""
    return figure.model_copy(update={"verdict": "inconclusive"}) if figure.verdict == "equivalent" else figure


def influence(draws: Draws, replicates: Floats) -> Floats:
    """Influence of every cluster on both sides, up to a factor: the covariance of its count with the replicates
    (the infinitesimal jackknife from resamples, Efron 2014, eq. 3.4)."""
    known = np.isfinite(replicates)
    gap = replicates[known] - replicates[known].mean()
    sides = [np.unique(counts[known], axis=1) for counts in (draws.simulated_BN, draws.human_BN)]
    return np.concatenate([(side - side.mean(0)).T @ gap / len(gap) for side in sides])


def accelerated(replicates: Floats, influence_G: Floats) -> tuple[float, float]:
    """Efron's (1987) BCa interval. The replicates are centred, so the correction of bias z0 is zero and the
    acceleration alone is left; noise in the influence shrinks it towards zero, which is the percentile interval."""
    total = float((influence_G**2).sum())
    a = float((influence_G**3).sum()) / (6 * total**1.5) if total > 0 else 0.0
    shares = [NormalDist().cdf(z / (1 - a * z)) for z in (-Z95, Z95)]
    low, high = np.quantile(replicates, shares)
    return float(low), float(high)


def _clip(value: float, spec: FigureSpec) -> float:
    value = value if spec.least is None else max(spec.least, value)
    return value if spec.most is None else min(spec.most, value)
