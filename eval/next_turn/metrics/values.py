"""Values of a metric at prefixes, their means with intervals, and tests between a simulator and people.

Every metric is a ratio of sums over prefixes. Conversations of one person are one cluster, which weighs at most
`CLUSTER_TURNS` turns. Otherwise one person who writes 199 turns would be a fifth of a sample of 200 conversations, and
intervals would not hold. Intervals are cluster-robust: the influence of a cluster is the change when it is left out
(jackknife). They use Student's t at degrees of freedom from the fourth moments, since few clusters have a rare act.
Intervals of shares are Wilson's at the effective sample size. Tests permute whole clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from eval.next_turn.prefixes import Prefix
from usersim.stats.estimates import Estimate, Floats
from usersim.types import Record

Group = Literal[
    "indistinguishability", "coherence", "fluency", "facts", "acts", "leaving", "copying", "likelihood"
]
Positions = Literal["all", "1", "2", "2+", "3+"]
PERMUTATIONS = 10_000
CLUSTER_TURNS = 5
"""Maximum number of prefixes that a cluster counts for; all of its prefixes have the same weight."""
CHUNK = 1_000
"""Number of permutations whose sums are in memory at once."""


class MetricSpec(Record):
    """Description of a metric, independent of data."""

    key: str
    """`group.name[.scorer][.positions]`."""
    group: Group
    label: str
    unit: str
    is_share: bool = False
    """The metric is a share of prefixes, between 0 and 1."""
    positions: Positions = "all"
    """User turns at which it is defined."""
    is_ratio: bool = False
    """Denominators differ between texts, such as characters; else both sides are measured where both are defined."""
    scorer: str | None = None
    """Scorer of the metric, out of two unrelated ones; a claim needs both."""


@dataclass(frozen=True)
class Values:
    """Values of a metric at P prefixes: Σ numerator / Σ denominator; the denominator is 0 where it is undefined."""

    numerator_P: Floats
    denominator_P: Floats

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Values:
        """Builds values from one number per prefix; None where it is undefined."""
        is_defined = np.array([value is not None for value in values], dtype=np.float64)
        return cls(np.array([value or 0.0 for value in values], dtype=np.float64), is_defined)

    @classmethod
    def of_ratios(cls, ratios: Sequence[tuple[float, float]]) -> Values:
        """Builds values from (numerator, denominator) of each prefix."""
        pairs = np.array(ratios, dtype=np.float64).reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1])

    def at(self, mask_P: NDArray[np.bool_]) -> Values:
        """Returns the values with those outside the mask undefined."""
        return Values(np.where(mask_P, self.numerator_P, 0.0), np.where(mask_P, self.denominator_P, 0.0))


class TurnMetric(Protocol):
    """One or more numbers over the texts written at prefixes."""

    @property
    def specs(self) -> Sequence[MetricSpec]: ...

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        """Returns values by key; `texts[i]` was written by a simulator or a person at `prefixes[i]`."""
        ...

    def people(self, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        """Returns values by key for the turns that people themselves wrote at the prefixes."""
        return self.values(prefixes, [prefix.text or "" for prefix in prefixes])


def at_positions(prefixes: Sequence[Prefix], positions: Positions) -> NDArray[np.bool_]:
    """Mask of the prefixes at these user turns."""
    number_P = np.array([prefix.position for prefix in prefixes], dtype=np.int64)
    if positions == "all":
        return np.ones(len(prefixes), dtype=bool)
    if positions.endswith("+"):
        mask: NDArray[np.bool_] = number_P >= int(positions[:-1])
        return mask
    return np.asarray(number_P == int(positions))


def cluster_weights(defined_C: Floats) -> Floats:
    """Weight of each cluster by its number of defined turns: at most `CLUSTER_TURNS` count."""
    weights: Floats = np.minimum(1.0, CLUSTER_TURNS / np.maximum(defined_C, 1.0))
    return weights


@dataclass(frozen=True)
class ClusterSums:
    """Numerator and denominator of a metric summed per cluster, large clusters down-weighted."""

    numerator_C: Floats
    denominator_C: Floats

    @classmethod
    def of(cls, values: Values, clusters: Sequence[str]) -> ClusterSums:
        _, owner = np.unique(np.asarray(clusters), return_inverse=True)
        count = int(owner.max()) + 1 if len(owner) else 0
        weight_C = cluster_weights(np.bincount(owner, values.denominator_P != 0, count).astype(np.float64))
        return cls(
            weight_C * np.bincount(owner, values.numerator_P, count),
            weight_C * np.bincount(owner, values.denominator_P, count),
        )

    @property
    def ratio(self) -> float:
        return float(self.numerator_C.sum() / self.denominator_C.sum())

    @property
    def residuals_C(self) -> Floats:
        """Influence of each cluster: the ratio minus the ratio without the cluster."""
        rest_C = self.denominator_C.sum() - self.denominator_C
        residuals: Floats = np.divide(
            self.numerator_C - self.ratio * self.denominator_C,
            rest_C,
            out=np.zeros_like(rest_C),
            where=rest_C > 1e-12,
        )
        return residuals

    @property
    def n_clusters(self) -> int:
        """Number of clusters in which the metric is defined."""
        return int((self.denominator_C > 0).sum())


def standard_error(residuals_C: Floats, n_clusters: int) -> float:
    """Standard error of a statistic with these influences of `n_clusters` independent clusters (jackknife)."""
    return math.sqrt(max(n_clusters - 1, 1) / max(n_clusters, 1) * float((residuals_C**2).sum()))


def degrees_of_freedom(residuals_C: Floats, n_clusters: int) -> float:
    """Degrees of freedom of the variance of `n_clusters` influences, by their fourth moments (Satterthwaite).

    They are between 1 and n_clusters - 1. The maximum is reached if influences are Gaussian. If few clusters carry the
    variance, it is about their number.
    """
    squares, fourth = float((residuals_C**2).sum()), float((residuals_C**4).sum())
    excess, most = fourth - squares**2 / max(n_clusters, 1), float(max(n_clusters - 1, 1))
    return min(max(2 * squares**2 / excess, 1.0), most) if excess > 1e-12 * fourth else most


def estimate(sums: ClusterSums, *, is_share: bool = False) -> Estimate:
    """The ratio with its 95 % interval; n counts clusters in which it is defined.

    Raises:
        ValueError: The metric is defined nowhere.
    """
    n_clusters = sums.n_clusters
    if not n_clusters:
        raise ValueError("the metric is defined at no prefix")
    value, residuals_C = sums.ratio, sums.residuals_C
    error, freedom = standard_error(residuals_C, n_clusters), degrees_of_freedom(residuals_C, n_clusters)
    if is_share:
        low, high = _wilson_effective(value, error, n_clusters, freedom)
    else:
        half = _quantile(freedom) * error
        low, high = value - half, value + half
    return Estimate(value=value, low=low, high=high, n=n_clusters)


def difference(first: ClusterSums, second: ClusterSums) -> Estimate:
    """first - second over the same clusters (paired), with its 95 % interval."""
    n_clusters = min(first.n_clusters, second.n_clusters)
    value = first.ratio - second.ratio
    residuals_C = first.residuals_C - second.residuals_C
    half = _quantile(degrees_of_freedom(residuals_C, n_clusters)) * standard_error(residuals_C, n_clusters)
    return Estimate(value=value, low=value - half, high=value + half, n=n_clusters)


def unpaired_difference(first: ClusterSums, second: ClusterSums) -> Estimate:
    """first - second of independent clusters, with its 95 % interval (Welch's degrees of freedom)."""
    value, variance, below = first.ratio - second.ratio, 0.0, 0.0
    for sums in (first, second):
        residuals_C = sums.residuals_C
        square = standard_error(residuals_C, sums.n_clusters) ** 2
        variance += square
        below += square**2 / degrees_of_freedom(residuals_C, sums.n_clusters)
    half = _quantile(variance**2 / below if below > 0 else 1.0) * math.sqrt(variance)
    return Estimate(
        value=value, low=value - half, high=value + half, n=min(first.n_clusters, second.n_clusters)
    )


def p_paired(
    first: ClusterSums, second: ClusterSums, rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> float:
    """Two-sided permutation p of "both sides are exchangeable": pairs are swapped, whole clusters at a time."""
    observed = abs(first.ratio - second.ratio)
    stacked = np.stack(
        [
            first.numerator_C - second.numerator_C,
            first.denominator_C - second.denominator_C,
        ],
        axis=1,
    )
    base = np.array([second.numerator_C.sum(), second.denominator_C.sum()])
    total = base + np.array([first.numerator_C.sum(), first.denominator_C.sum()])
    extreme = 0
    for size in _chunks(permutations):
        kept_RC = rng.integers(0, 2, size=(size, len(stacked))).astype(np.float64)
        one_R2 = base + kept_RC @ stacked
        extreme += _as_extreme(one_R2, total - one_R2, observed)
    return (1 + extreme) / (1 + permutations)


def p_unpaired(
    first: ClusterSums, second: ClusterSums, rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> float:
    """Two-sided permutation p of "both are samples of the same people"; clusters are reassigned, sizes are kept."""
    observed = abs(first.ratio - second.ratio)
    stacked = np.stack(
        [
            np.concatenate([first.numerator_C, second.numerator_C]),
            np.concatenate([first.denominator_C, second.denominator_C]),
        ],
        axis=1,
    )
    total, size_first, extreme = stacked.sum(0), len(first.numerator_C), 0
    for size in _chunks(permutations):
        ranks = rng.random((size, len(stacked))).argpartition(size_first - 1, axis=1)[:, :size_first]
        dealt_RC = np.zeros((size, len(stacked)))
        np.put_along_axis(dealt_RC, ranks, 1.0, axis=1)
        one_R2 = dealt_RC @ stacked
        extreme += _as_extreme(one_R2, total - one_R2, observed)
    return (1 + extreme) / (1 + permutations)


def p_against(
    sums: ClusterSums, null: float, rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> float:
    """Two-sided p of "the ratio is `null`", by flipping the signs of whole clusters around it."""
    centred_C = sums.numerator_C - null * sums.denominator_C
    observed, extreme = abs(float(centred_C.sum())), 0
    for size in _chunks(permutations):
        signs_RC = rng.integers(0, 2, size=(size, len(centred_C))) * 2.0 - 1.0
        extreme += int((np.abs(signs_RC @ centred_C) >= observed - 1e-12).sum())
    return (1 + extreme) / (1 + permutations)


def _as_extreme(one_R2: Floats, two_R2: Floats, observed: float) -> int:
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.abs(one_R2[:, 0] / one_R2[:, 1] - two_R2[:, 0] / two_R2[:, 1])
    # A reassignment that leaves one side without defined values counts against rejection.
    return int((~(gap < observed - 1e-12)).sum())


def _chunks(total: int) -> list[int]:
    return [min(CHUNK, total - start) for start in range(0, total, CHUNK)]


def _quantile(freedom: float) -> float:
    return float(student_t.ppf(0.975, max(freedom, 1.0)))


def _wilson_effective(share: float, error: float, n_clusters: int, freedom: float) -> tuple[float, float]:
    """Wilson's interval at the sample size that a simple random sample would need for the same error."""
    varies = 0 < share < 1 and error > 0
    n = share * (1 - share) / error**2 if varies else float(n_clusters)
    z2 = _quantile(freedom if varies else n_clusters - 1) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return (0.0 if share <= 0 else max(0.0, middle - half)), (1.0 if share >= 1 else min(1.0, middle + half))
