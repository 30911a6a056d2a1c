"""M1, the marginal profile: one attribute of the user turns at a time, human against simulated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.fidelity.samples.features import FEATURES, Feature, Sample
from usersim.stats.estimates import Draws, FigureSpec, Floats, Measured, Split

LEAST_SPREAD = 0.05
"""Divisor where humans hardly vary, so that a behaviour that no human shows still counts in a simulator."""


def wasserstein(support_U: Floats, p_RU: Floats, q_RU: Floats) -> Floats:
    """Returns Wasserstein-1 distances of distributions on the ascending points `support_U`, one pair a row, in units of
    the points."""
    gaps = np.diff(support_U)
    cdf_gap = np.cumsum(p_RU - q_RU, axis=-1)[..., :-1]
    distance: Floats = np.abs(cdf_gap) @ gaps
    return distance


def jensen_shannon(p_RK: Floats, q_RK: Floats) -> Floats:
    """Returns Jensen-Shannon divergences of histograms, one pair a row. Bits, 0 to 1; biased upwards in small n."""
    middle = (p_RK + q_RK) / 2
    total: Floats = (_entropy_gap(p_RK, middle) + _entropy_gap(q_RK, middle)) / 2
    return np.maximum(total, 0)


def _entropy_gap(p: Floats, middle: Floats) -> Floats:
    ratio = np.divide(p, middle, out=np.ones_like(p), where=(p > 0) & (middle > 0))
    gap: Floats = (p * np.log2(ratio)).sum(-1)
    return gap


class Marginals:
    """Wasserstein-1 in human standard deviations (headline) and Jensen-Shannon in bits, per feature."""

    def __init__(self, features: Sequence[Feature] = FEATURES) -> None:
        self.features = tuple(features)

    @property
    def specs(self) -> list[FigureSpec]:
        return [spec for feature in self.features for spec in _specs(feature)]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        first, second = (np.zeros((len(splits), len(pool))) for _ in range(2))
        for row, split in enumerate(splits):
            first[row, split.first] = second[row, split.second] = 1
        metrics: dict[str, Floats] = {}
        for feature in self.features:
            support, mass, _ = _supports(feature, pool, pool)
            w1, jsd = _distances(feature, support, first @ mass, second @ mass, spread(feature, pool))
            metrics |= {f"{feature.key}.w1": w1, f"{feature.key}.jsd": jsd}
        return metrics

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        metrics: dict[str, Measured] = {}
        for feature in self.features:
            support, mass_s, mass_h = _supports(feature, simulated, human)
            # Row 0 is the data as it is, the rest are its resamples.
            counts_s, counts_h = (
                np.vstack([np.ones(len(c[0])), c]) for c in (draws.simulated_BN, draws.human_BN)
            )
            w1, jsd = _distances(
                feature, support, counts_s @ mass_s, counts_h @ mass_h, spread(feature, pool)
            )
            if not np.isnan(w1[0]):
                metrics[f"{feature.key}.w1"] = Measured(float(w1[0]), w1[1:])
                metrics[f"{feature.key}.jsd"] = Measured(float(jsd[0]), jsd[1:])
        return metrics


def spread(feature: Feature, pool: Sample) -> float:
    """Returns the standard deviation over the human turns, each conversation weighing the same."""
    values, _, mass = pool.flat(feature)
    if not len(values):
        return 1.0
    scaled = feature.scaled(values)
    mean = np.average(scaled, weights=mass)
    return max(LEAST_SPREAD, float(np.sqrt(np.average((scaled - mean) ** 2, weights=mass))))


def histogram(feature: Feature, sample: Sample) -> Floats:
    """Returns the share of the user turns (each conversation weighing the same) in every bin of the feature."""
    values, _, mass = sample.flat(feature)
    shares = np.zeros(len(feature.bins) - 1)
    np.add.at(shares, _bin_of(feature, values), mass)
    normalised: Floats = shares / max(shares.sum(), 1e-300)
    return normalised


def average(feature: Feature, sample: Sample) -> float | None:
    """Returns the average in natural units: mean of a flag or ratio, median of a count, each conversation weighing the
    same."""
    values, _, mass = sample.flat(feature)
    if not len(values):
        return None
    if not feature.log:
        return float(np.average(values, weights=mass))
    order = np.argsort(values)
    reached = np.cumsum(mass[order]) >= mass.sum() / 2
    return float(values[order][np.argmax(reached)])


def _specs(feature: Feature) -> tuple[FigureSpec, FigureSpec]:
    unit = "human SD of log2(1 + words)" if feature.log else "human SD"
    if feature.key == "user_turns":
        unit = "human SD of log2(1 + turns)"
    return (
        FigureSpec(key=f"{feature.key}.w1", metric="M1", label=feature.label, unit=f"W1, {unit}"),
        FigureSpec(
            key=f"{feature.key}.jsd",
            metric="M1",
            label=f"{feature.label}, histogram",
            unit="JSD, bits",
            headline=False,
            most=1.0,
        ),
    )


def _supports(feature: Feature, a: Sample, b: Sample) -> tuple[Floats, Floats, Floats]:
    """Returns (all values that occur, mass of each conversation of `a` on them, the same of `b`)."""
    flat_a, flat_b = a.flat(feature), b.flat(feature)
    support = np.unique(np.concatenate([flat_a[0], flat_b[0]]))
    masses = []
    for sample, (values, owner, mass) in ((a, flat_a), (b, flat_b)):
        mass_NU = np.zeros((len(sample), len(support)))
        np.add.at(mass_NU, (owner, np.searchsorted(support, values)), mass)
        masses.append(mass_NU)
    return support, masses[0], masses[1]


def _distances(feature: Feature, support: Floats, p: Floats, q: Floats, unit: float) -> tuple[Floats, Floats]:
    # No value on a side: a sample without any two-turn conversation has no variation of words per turn.
    is_known = (p.sum(1) > 0) & (q.sum(1) > 0)
    p, q = (side / np.maximum(side.sum(1, keepdims=True), 1e-300) for side in (p, q))
    bins = np.eye(len(feature.bins) - 1)[_bin_of(feature, support)]
    w1 = wasserstein(feature.scaled(support), p, q) / unit
    return np.where(is_known, w1, np.nan), np.where(is_known, jensen_shannon(p @ bins, q @ bins), np.nan)


def _bin_of(feature: Feature, values: Floats) -> np.ndarray:
    return np.searchsorted(np.array(feature.bins[1:-1]), values, side="right")
