"""Rates over conversations for all splits and resamples at once: counts (R, N) times tallies (N, K)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.fidelity.metrics.metric_protocol import Curve
from usersim.stats.estimates import Draws, Estimate, Floats, Measured, Split, bootstrap_share

LEAST = 10
"""Conversations on each side in which a cell must occur to be compared."""


Flags = NDArray[np.bool_]


def ratio(above: Floats, below: Floats) -> Floats:
    """Divides; NaN where the divisor is zero."""
    share: Floats = np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)
    return share


@dataclass(frozen=True)
class Tallies:
    """Trials and hits of each conversation in each cell."""

    hits_NK: Floats
    trials_NK: Floats
    """Weight of each conversation in each cell; `hits_NK` is the part that is a hit."""

    @classmethod
    def of(cls, rows: Sequence[tuple[Floats, Floats]]) -> Tallies:
        """Builds tallies from (hits, trials) of each conversation."""
        return cls(np.array([hits for hits, _ in rows]), np.array([trials for _, trials in rows]))

    def rates(self, counts_RN: Floats) -> Floats:
        """Returns the (R, K) rates Σhits / Σtrials; NaN without trials."""
        trials = counts_RN @ self.trials_NK
        return np.divide(counts_RN @ self.hits_NK, trials, out=np.full_like(trials, np.nan), where=trials > 0)

    def support(self, counts_RN: Floats) -> Floats:
        """Returns the (R, K) number of conversations with a trial in each cell."""
        counts: Floats = (counts_RN > 0).astype(np.float64) @ (self.trials_NK > 0).astype(np.float64)
        return counts

    def estimate(self, cell: int, counts_BN: Floats) -> Estimate | None:
        """Returns the cell's rate with its interval; None below `LEAST` conversations with a trial."""
        above, below = self.hits_NK[:, cell], self.trials_NK[:, cell]
        return bootstrap_share(above, below, counts_BN) if (below > 0).sum() >= LEAST else None


@dataclass(frozen=True)
class RatePair:
    """Rates of two sides, one pair a row, and the cells that both sides know."""

    first_RK: Floats
    second_RK: Floats
    known_RK: Flags


def weighted_mean(values_RK: Floats, known_RK: Flags, weights_K: Floats) -> Floats:
    """Returns the (R,) mean over the known cells, with weights rescaled to one; NaN without a known cell of positive
    weight."""
    weights = np.where(known_RK, weights_K, 0.0)
    total = weights.sum(1)
    above = (np.where(known_RK, values_RK, 0.0) * weights).sum(1)
    return ratio(above, total)


def split_counts(splits: Sequence[Split], n: int) -> tuple[Floats, Floats]:
    """Returns two (splits, n) arrays of ones at the first and at the second half."""
    first, second = (np.zeros((len(splits), n)) for _ in range(2))
    for row, split in enumerate(splits):
        first[row, split.first] = second[row, split.second] = 1
    return first, second


def data_and_draws(draws: Draws) -> tuple[Floats, Floats]:
    """Returns the counts of both sides (simulated, human); row 0 is the data itself, the others are its resamples."""
    simulated, human = (
        np.vstack([np.ones((1, c.shape[1])), c]) for c in (draws.simulated_BN, draws.human_BN)
    )
    return simulated, human


def split_pair(tallies: Tallies, splits: Sequence[Split]) -> RatePair:
    first, second = split_counts(splits, len(tallies.hits_NK))
    is_known = np.minimum(tallies.support(first), tallies.support(second)) >= LEAST
    return RatePair(tallies.rates(first), tallies.rates(second), is_known)


def measured_pair(simulated: Tallies, human: Tallies, draws: Draws) -> RatePair:
    """Returns the rates of the data and its resamples. Cells are selected on the data and kept for its resamples,
    except in resamples that lost a cell."""
    counts_s, counts_h = data_and_draws(draws)
    p, q = simulated.rates(counts_s), human.rates(counts_h)
    enough = np.minimum(simulated.support(counts_s[:1]), human.support(counts_h[:1])) >= LEAST
    return RatePair(p, q, enough & ~np.isnan(p) & ~np.isnan(q))


def measured(metrics: dict[str, Floats]) -> dict[str, Measured]:
    """Returns measurements from rows (the data first, then its resamples). Metrics that the data cannot give are left
    out."""
    return {key: Measured(float(rows[0]), rows[1:]) for key, rows in metrics.items() if not np.isnan(rows[0])}


def course(
    key: str, label: str, x_label: str, y_label: str, sides: tuple[Tallies, Tallies], draws: Draws
) -> Curve:
    """Returns all cells of (simulated, human) as a line over 1, 2, …."""
    cells = range(sides[0].hits_NK.shape[1])
    names = [str(position + 1) for position in cells]
    return _curve(key, label, (x_label, y_label), names, sides, cells, draws)


def bars(
    key: str,
    label: str,
    names: Sequence[str],
    sides: tuple[Tallies, Tallies],
    cells: Sequence[int],
    draws: Draws,
) -> Curve:
    """Returns some cells of (simulated, human) as separate categories."""
    curve = _curve(key, label, ("", "share"), names, sides, cells, draws)
    return curve.model_copy(update={"categories": True})


def without_empty(curves: Iterable[Curve]) -> list[Curve]:
    """Drops the curves on which neither side has any value."""
    return [curve for curve in curves if any(curve.human) or any(curve.simulated)]


def _curve(
    key: str,
    label: str,
    axes: tuple[str, str],
    names: Sequence[str],
    sides: tuple[Tallies, Tallies],
    cells: Sequence[int],
    draws: Draws,
) -> Curve:
    simulated, human = sides
    return Curve(
        key=key,
        metric="M5",
        label=label,
        x_label=axes[0],
        y_label=axes[1],
        x=tuple(names),
        human=tuple(human.estimate(cell, draws.human_BN) for cell in cells),
        simulated=tuple(simulated.estimate(cell, draws.simulated_BN) for cell in cells),
    )
