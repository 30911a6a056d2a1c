"""Figures with intervals, read against the human floor. All intervals are 95 %."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eval.settings import TRUSTED_N
from usersim.types import Record

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Worse = Literal["higher", "lower"]
Verdict = Literal["different", "inconclusive", "too few"]
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


class FigureSpec(Record):
    """What a figure is, apart from any data."""

    key: str
    metric: str
    label: str
    unit: str
    worse: Worse = "higher"
    """The direction that is further from human."""
    headline: bool = True
    """Counted in the headline; False for a second view of what another figure already counts."""
    least: float | None = 0.0
    most: float | None = None


class Figure(FigureSpec):
    value: Estimate
    floor: Floor
    excess: Estimate
    """Beyond the floor's median; positive is further from human than humans are from each other."""
    inside_floor: bool
    """Not beyond the floor's 97.5 % quantile (2.5 % where lower is worse)."""
    verdict: Verdict


@dataclass(frozen=True)
class Measured:
    """A figure between one simulator and the humans, and its values on bootstrap resamples."""

    value: float
    replicates: Floats


@dataclass(frozen=True)
class Draws:
    """The randomness of a comparison, drawn once: all metrics and simulators see the same resamples."""

    simulated_BN: Floats
    """Row b: how often resample b holds each simulated conversation."""
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
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975])
    return Floor(median=float(middle), low=float(low), high=float(high), repeats=len(values))


def judge(spec: FigureSpec, measured: Measured, floor: Floor, n: int) -> Figure:
    """The figure with interval, excess and verdict.

    Resampling adds noise, and noise moves a distance up (coverage: down). So the replicates are centred on
    the value before their percentiles are taken. "different" needs the interval of the excess above zero
    *and* the value beyond the floor's band, so that two human halves are called different in about 2.5 %
    of comparisons at most. There is no "equivalent": that needs a margin chosen beforehand.
    """
    value = measured.value
    replicates = measured.replicates - np.median(measured.replicates) + value
    sign = 1.0 if spec.worse == "higher" else -1.0
    excess_low, excess_high = interval(sign * (replicates - floor.median))
    low, high = interval(replicates)
    inside = value <= floor.high if spec.worse == "higher" else value >= floor.low
    verdict: Verdict = "different" if excess_low > 0 and not inside else "inconclusive"
    return Figure(
        **spec.model_dump(),
        value=Estimate(value=value, low=_clip(low, spec), high=_clip(high, spec), n=n),
        floor=floor,
        excess=Estimate(value=sign * (value - floor.median), low=excess_low, high=excess_high, n=n),
        inside_floor=inside,
        verdict=verdict if n >= TRUSTED_N else "too few",
    )


def _clip(value: float, spec: FigureSpec) -> float:
    value = value if spec.least is None else max(spec.least, value)
    return value if spec.most is None else min(spec.most, value)


def human_splits(groups: Sequence[str], n: int, repeats: int, rng: np.random.Generator) -> list[Split]:
    """Random disjoint halves of `n` each. Whole groups go to one side, but for the one at the boundary."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    splits = []
    for _ in range(repeats):
        rank = rng.permutation(len(names))[owner] + rng.random(len(owner))
        order = np.argsort(rank).astype(np.int64)
        splits.append(Split(first=order[:n], second=order[len(order) - n :]))
    return splits
