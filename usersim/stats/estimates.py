"""Estimates with intervals, splits of people, resamples of clusters. All intervals are 95 %.

`eval.fidelity.verdicts` reads them against the human floor.
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
    value: float
    low: float
    high: float
    n: int
    """Conversations (per side, where there are two)."""


class Floor(Record):
    """The same figure between two disjoint halves of the human conversations, at the same n."""

    median: float
    low: float
    """2.5 % quantile over the splits."""
    high: float
    """97.5 % quantile over the splits."""
    repeats: int
    """Splits of which both halves held something to measure."""


class FigureSpec(Record):
    """What a figure is, apart from any data."""

    key: str
    metric: str
    label: str
    unit: str
    worse: Worse = "higher"
    """The direction that is further from human."""
    two_sided: bool = False
    """Far on the other side of the floor is not human either: an AUC well below a half tells copies apart."""
    headline: bool = True
    """Named in the headline; False for a second view of what another figure already shows."""
    least: float | None = 0.0
    most: float | None = None


class Figure(FigureSpec):
    value: Estimate
    """Its interval is for the figure that samples of this size give on average: see `eval.fidelity.verdicts`."""
    floor: Floor
    excess: Estimate
    """Beyond the floor's median; positive is further from human than humans are from each other."""
    inside_floor: bool
    """Not beyond the floor's 97.5 % quantile (2.5 % where lower is worse)."""
    margin: float
    """δ: an excess whose interval ends below it is equivalent to human."""
    p: float
    """One-sided (unless `two_sided`), of an excess of nothing; of this figure by itself."""
    p_holm: float
    """The same, adjusted for all figures judged together (Holm 1979)."""
    verdict: Verdict


@dataclass(frozen=True)
class Measured:
    """A figure between one simulator and the humans, and its values on bootstrap resamples."""

    value: float
    replicates: Floats
    """NaN on a resample that holds nothing to measure."""


@dataclass(frozen=True)
class Draws:
    """The randomness of a comparison, drawn once: all metrics and simulators see the same resamples."""

    simulated_BN: Floats
    """Row b: how often resample b holds each simulated conversation. Whole numbers; conversations of one
    cluster have the same count, so rows of unequal clusters do not add up to N: divide by the row's sum."""
    human_BN: Floats


@dataclass(frozen=True)
class Split:
    """Two disjoint index sets of equal size into the human conversations."""

    first: Ints
    second: Ints


def rng_for(seed: int, purpose: str) -> np.random.Generator:
    """One independent stream per purpose, so that adding a metric moves no other number."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def resamples(n: int, repeats: int, rng: np.random.Generator) -> Floats:
    """(repeats, n) counts of a bootstrap with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=repeats).astype(np.float64)


def cluster_resamples(clusters: Sequence[str], repeats: int, rng: np.random.Generator) -> Floats:
    """(repeats, N) counts of a bootstrap that draws whole clusters (people, tasks): each member has its
    cluster's count (Davison & Hinkley 1997, §3.8)."""
    names, owner = np.unique(np.asarray(clusters), return_inverse=True)
    return resamples(len(names), repeats, rng)[:, owner]


def interval(replicates: Floats) -> tuple[float, float]:
    """2.5 % and 97.5 % percentiles."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)


def bootstrap_ratio(above: Floats, below: Floats, counts_BN: Floats) -> Estimate:
    """Σabove / Σbelow over conversations with its percentile interval; resamples over nothing are left out."""
    total = below.sum()
    if total <= 0:
        raise ValueError("a ratio over nothing")
    over = counts_BN @ below
    kept = over > 0
    low, high = interval((counts_BN @ above)[kept] / over[kept])
    return Estimate(value=float(above.sum() / total), low=low, high=high, n=int((below > 0).sum()))


def bootstrap_share(hits: Floats, trials: Floats, counts_BN: Floats) -> Estimate:
    """Σhits / Σtrials, a share, as `bootstrap_ratio`. At 0 and at 1 every resample is the same: there Wilson's
    interval over the conversations that say anything."""
    found = bootstrap_ratio(hits, trials, counts_BN)
    if found.value not in (0.0, 1.0):
        return found
    bounds = wilson(round(found.value * found.n), found.n)
    return found.model_copy(update={"low": bounds.low, "high": bounds.high})


def wilson(hits: int, n: int) -> Estimate:
    """Share with Wilson's score interval, which stays honest at 0 of n."""
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
    """first - second of two independent shares, from their Wilson intervals (Newcombe 1998, method 10)."""
    gap = first.value - second.value
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value=gap, low=gap - down, high=gap + up, n=min(first.n, second.n))


def floor_of(values: Floats) -> Floor:
    """Of the splits that could be measured; NaN are left out. Raises ValueError without any."""
    known = values[np.isfinite(values)]
    if not len(known):
        raise ValueError("a floor of nothing")
    low, middle, high = np.quantile(known, [0.025, 0.5, 0.975])
    return Floor(median=float(middle), low=float(low), high=float(high), repeats=len(known))


def human_splits(groups: Sequence[str], n: int, repeats: int, rng: np.random.Generator) -> list[Split]:
    """Random disjoint halves of `n` each; no group is on both sides where `n` is at most `largest_half`."""
    splits = []
    for _ in range(repeats):
        order = person_order(groups, rng)
        splits.append(Split(first=order[:n], second=order[len(order) - n :]))
    return splits


def person_order(groups: Sequence[str], rng: np.random.Generator) -> Ints:
    """Indices in random order, groups one after the other: a run from either end cuts one group at most."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    rank = rng.permutation(len(names))[owner] + rng.random(len(owner))
    return np.argsort(rank).astype(np.int64)


def largest_half(groups: Sequence[str]) -> int:
    """The largest n at which two runs of n from the ends of `person_order` can share no group."""
    if not len(groups):
        return 0
    _, sizes = np.unique(np.asarray(groups), return_counts=True)
    return int((len(groups) - sizes.max() + 1) // 2)
