"""M3, coverage and density (Naeem et al. 2020, PRDC) in two spaces: standardised features, and mean sentence embeddings
of the user turns.

Coverage asks whether every kind of human is simulated; mode collapse lowers it. Density asks whether simulated
conversations lie where humans are. It is 1 for the same distribution, less outside, and more where they crowd into
the middle. Neither direction is human, so the metric is its distance from 1. Features describe how people write,
embeddings their topics: a conversation composed of turns of several conversations lies between topics, where no human
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.fidelity.metrics.texts.embedded import turn_means, unavailable
from eval.fidelity.samples.features import FeatureScale, Sample
from usersim.errors import DataError
from usersim.stats.estimates import Draws, FigureSpec, Floats, Measured, Split

Space = Literal["behaviour", "embeddings"]
SUFFIXES: dict[Space, str] = {"behaviour": "", "embeddings": "_embeddings"}
"""Suffixes of the metrics' keys."""


def distances(a_NF: Floats, b_MF: Floats) -> Floats:
    """Returns Euclidean distances, (N, M)."""
    squared = (a_NF**2).sum(1)[:, None] + (b_MF**2).sum(1)[None] - 2 * a_NF @ b_MF.T
    distances_NM: Floats = np.sqrt(np.maximum(squared, 0))
    return distances_NM


def in_ball(human_NN: Floats, human_to_simulated_NM: Floats, k: int) -> Floats:
    """Returns (N, M): 1 where simulated m lies within human n's distance to its k-th nearest other human. Raises
    DataError for fewer than k + 1 humans."""
    if k >= len(human_NN):
        raise DataError(f"{len(human_NN)} human conversations have no {k}-th nearest other; lower neighbours")
    others = human_NN.copy()
    np.fill_diagonal(others, np.inf)
    radius = np.partition(others, k - 1, axis=1)[:, k - 1]
    # Equal vectors differ by rounding in `distances`; a relative slack keeps them within a radius of zero.
    return (human_to_simulated_NM <= radius[:, None] + 1e-6).astype(np.float64)


def coverage(inside_NM: Floats, human_BN: Floats, simulated_BM: Floats) -> Floats:
    """Returns the share of humans with a simulated conversation in their ball, one weighting a row. 0 to 1."""
    reached_BN = ((simulated_BM > 0).astype(np.float64) @ inside_NM.T) > 0
    share: Floats = (human_BN * reached_BN).sum(1) / human_BN.sum(1)
    return share


def density(inside_NM: Floats, human_BN: Floats, simulated_BM: Floats, k: int) -> Floats:
    """Returns the mean number of human balls around a simulated conversation, over k. 1 for the same distribution."""
    hits = np.einsum("bn,bn->b", human_BN @ inside_NM, simulated_BM)
    mean: Floats = hits / (k * simulated_BM.sum(1)) * (len(inside_NM) / human_BN.sum(1))
    return mean


@dataclass(frozen=True)
class Coverage:
    neighbours: int = 5
    spaces: tuple[Space, ...] = ("behaviour",)
    """Embeddings are left out where there is no model."""

    @property
    def specs(self) -> list[FigureSpec]:
        return [spec for space in self.spaces for spec in _specs(space)]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        values_by_key = {spec.key: np.full(len(splits), np.nan) for spec in self.specs}
        for space in self._available_spaces():
            points = _points(space, pool, pool)
            distances_NN = distances(points, points)
            for row, split in enumerate(splits):
                human = distances_NN[np.ix_(split.second, split.second)]
                inside = in_ball(human, distances_NN[np.ix_(split.second, split.first)], self.neighbours)
                for name, value in self._all_metrics(
                    inside, np.ones((1, len(human))), np.ones((1, len(human)))
                ):
                    values_by_key[name + SUFFIXES[space]][row] = value[0]
        return values_by_key

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        """Returns the metrics with balls from the data itself: resampled humans would be their own neighbours."""
        measurements: dict[str, Measured] = {}
        for space in self._available_spaces():
            simulated_points, human_points = _points(space, simulated, pool), _points(space, human, pool)
            inside = in_ball(
                distances(human_points, human_points),
                distances(human_points, simulated_points),
                self.neighbours,
            )
            # Row 0 is the data as it is, the rest are its resamples.
            rows = [np.vstack([np.ones(c.shape[1]), c]) for c in (draws.human_BN, draws.simulated_BN)]
            for name, values in self._all_metrics(inside, *rows):
                measurements[name + SUFFIXES[space]] = Measured(float(values[0]), values[1:])
        return measurements

    def _available_spaces(self) -> list[Space]:
        return [space for space in self.spaces if space == "behaviour" or unavailable() is None]

    def _all_metrics(
        self, inside: Floats, human_BN: Floats, simulated_BM: Floats
    ) -> list[tuple[str, Floats]]:
        dense = density(inside, human_BN, simulated_BM, self.neighbours)
        return [
            ("coverage", coverage(inside, human_BN, simulated_BM)),
            ("density_gap", _gap(dense, self.neighbours * inside.shape[1])),
            ("density", dense),
        ]


def _gap(density_B: Floats, pairs: float) -> Floats:
    """Returns |log2 density|: 1 is half or twice. A density of zero counts as half a hit of all `pairs`."""
    gap: Floats = np.abs(np.log2(np.maximum(density_B, 0.5 / pairs)))
    return gap


def _points(space: Space, sample: Sample, pool: Sample) -> Floats:
    return turn_means(sample) if space == "embeddings" else FeatureScale.of(pool).standardise(sample)


def _specs(space: Space) -> tuple[FigureSpec, ...]:
    suffix, space_note = SUFFIXES[space], "" if space == "behaviour" else f" ({space})"
    return (
        FigureSpec(
            key=f"coverage{suffix}",
            metric="M3",
            label=f"coverage of human modes{space_note}",
            unit="share",
            worse="lower",
            most=1.0,
        ),
        FigureSpec(
            key=f"density_gap{suffix}",
            metric="M3",
            label=f"density around humans, away from 1{space_note}",
            unit="|log2 ratio|",
        ),
        FigureSpec(
            key=f"density{suffix}",
            metric="M3",
            label=f"density around humans{space_note}",
            unit="ratio",
            worse="lower",
            headline=False,
        ),
    )
