"""Statistics: estimates with 95 % intervals, human splits, cluster bootstrap.

`eval.fidelity.verdicts` compares them with the human baseline (`Floor`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from usersim.types import Record

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Worse = Literal["higher", "lower"]
Verdict = Literal["different", "equivalent", "inconclusive", "too few"]
Z95 = 1.959963984540054


class Estimate(Record):
    """Estimate with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of conversations (per side if there are two)."""


class Floor(Record):
    """Human baseline: the same metric between two disjoint halves of the human conversations, at the same n."""

    median: float
    low: float
    """2.5 % quantile over the splits."""
    high: float
    """97.5 % quantile over the splits."""
    repeats: int
    """Number of splits where both halves could be measured."""


class FigureSpec(Record):
    """Definition of a metric, independent of data."""

    key: str
    metric: str
    label: str
    unit: str
    worse: Worse = "higher"
    """Direction further from human."""
    two_sided: bool = False
    """True if values far on the other side of the baseline are not human either, as an AUC well below 0.5."""
    headline: bool = True
    """Named in the headline; False for a second view of another metric."""
    least: float | None = 0.0
    most: float | None = None


class Figure(FigureSpec):
    """Metric of a simulator, compared with the human baseline."""

    value: Estimate
    """Value; its interval covers the average value for samples of this size (`eval.fidelity.verdicts`)."""
    floor: Floor
    excess: Estimate
    """Value minus the baseline's median; positive is further from human than humans are from each other."""
    inside_floor: bool
    """True if not beyond the baseline's 97.5 % quantile (2.5 % if lower is worse)."""
    margin: float
    """Equivalence margin δ: an excess whose interval ends below it is equivalent to human."""
    p: float
    """p-value of no excess, one-sided unless `two_sided`, for this metric alone."""
    p_holm: float
    """p-value adjusted for all metrics judged together (Holm 1979)."""
    verdict: Verdict


@dataclass(frozen=True)
class Measured:
    """Metric between one simulator and the humans, with its values on bootstrap resamples."""

    value: float
    replicates: Floats
    """Values by resample; NaN where it cannot be measured."""


@dataclass(frozen=True)
class Draws:
    """Bootstrap resamples of a comparison, shared by all metrics and simulators."""

    simulated_BN: Floats
    """Counts of each simulated conversation in resample b. Conversations of one cluster have the same count, so rows of
    unequal clusters do not add up to N: divide by the row's sum."""
    human_BN: Floats


@dataclass(frozen=True)
class Split:
    """Two disjoint index sets of equal size over the human conversations."""

    first: Ints
    second: Ints


def rng_for(seed: int, purpose: str) -> np.random.Generator:
    """Returns an independent random stream per purpose, so that adding a metric changes no other number."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def resamples(n: int, repeats: int, rng: np.random.Generator) -> Floats:
    """Returns counts (repeats, n) of a bootstrap with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=repeats).astype(np.float64)


def cluster_resamples(clusters: Sequence[str], repeats: int, rng: np.random.Generator) -> Floats:
    """Returns counts (repeats, N) of a cluster bootstrap (Davison & Hinkley 1997, §3.8).

    Whole clusters (people, tasks) are resampled, and each member has its cluster's count.
    """
    names, owner = np.unique(np.asarray(clusters), return_inverse=True)
    return resamples(len(names), repeats, rng)[:, owner]


def interval(replicates: Floats) -> tuple[float, float]:
    """Returns the 2.5 % and 97.5 % percentiles."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_ratio(above: Floats, below: Floats, counts_BN: Floats) -> Estimate:
    """Returns Σabove / Σbelow over conversations with its percentile interval.

    Resamples with a zero denominator are left out. Raises ValueError if Σbelow is zero.
    """
    total = below.sum()
    if total <= 0:
        raise ValueError("a ratio over nothing")
    denominators = counts_BN @ below
    is_valid = denominators > 0
    low, high = interval((counts_BN @ above)[is_valid] / denominators[is_valid])
    return Estimate(value=float(above.sum() / total), low=low, high=high, n=int((below > 0).sum()))


def bootstrap_share(hits: Floats, trials: Floats, counts_BN: Floats) -> Estimate:
    """Returns the share Σhits / Σtrials, as `bootstrap_ratio`.

    At 0 and 1 all resamples are equal: there it has Wilson's interval over the conversations with trials.
    """
    share = bootstrap_ratio(hits, trials, counts_BN)
    if share.value not in (0.0, 1.0):
        return share
    bounds = wilson(round(share.value * share.n), share.n)
    return share.model_copy(update={"low": bounds.low, "high": bounds.high})


def wilson(hits: int, n: int) -> Estimate:
    """Returns a share with Wilson's score interval, which is valid at 0 of n. Raises ValueError for n = 0."""
    if n == 0:
        raise ValueError("a share of nothing")
    share, z2 = hits / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(
        value=share,
        low=0.0 if hits == 0 else max(0.0, middle - half),
        high=1.0 if hits == n else min(1.0, middle + half),
        n=n,
    )


def newcombe(first: Estimate, second: Estimate) -> Estimate:
    """Returns first - second of two independent shares, from their Wilson intervals (Newcombe 1998, method 10)."""
    gap = first.value - second.value
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value=gap, low=gap - down, high=gap + up, n=min(first.n, second.n))


def floor_of(values: Floats) -> Floor:
    """Returns the human baseline from the values of the splits; NaN are left out. Raises ValueError without any."""
    measured = values[np.isfinite(values)]
    if not len(measured):
        raise ValueError("a floor of nothing")
    low, middle, high = np.quantile(measured, [0.025, 0.5, 0.975])
    return Floor(median=float(middle), low=float(low), high=float(high), repeats=len(measured))


def human_splits(groups: Sequence[str], n: int, repeats: int, rng: np.random.Generator) -> list[Split]:
    """Returns random disjoint halves of `n` each; no group is in both if `n` is at most `largest_half`."""
    splits = []
    for _ in range(repeats):
        order = person_order(groups, rng)
        splits.append(Split(first=order[:n], second=order[len(order) - n :]))
    return splits


def person_order(groups: Sequence[str], rng: np.random.Generator) -> Ints:
    """Returns indices in random order, group by group: a run from either end cuts one group at most."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    rank = rng.permutation(len(names))[owner] + rng.random(len(owner))
    return np.argsort(rank).astype(np.int64)


def largest_half(groups: Sequence[str]) -> int:
    """Returns the largest n at which two runs of n from the ends of `person_order` share no group."""
    if not len(groups):
        return 0
    _, sizes = np.unique(np.asarray(groups), return_counts=True)
    return int((len(groups) - sizes.max() + 1) // 2)
