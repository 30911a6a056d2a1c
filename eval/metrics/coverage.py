"""M3, coverage and density (Naeem et al. 2020, PRDC) in the space of standardised features.

Coverage asks whether every kind of human is simulated (mode collapse lowers it), density whether simulated
conversations lie where humans are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.estimates import Draws, FigureSpec, Floats, Measured, Split
from eval.features import Sample, Scale


def distances(a_NF: Floats, b_MF: Floats) -> Floats:
    """Euclidean, (N, M)."""
    squared = (a_NF**2).sum(1)[:, None] + (b_MF**2).sum(1)[None] - 2 * a_NF @ b_MF.T
    apart: Floats = np.sqrt(np.maximum(squared, 0))
    return apart


def in_ball(human_NN: Floats, human_to_simulated_NM: Floats, k: int) -> Floats:
    """1 where simulated m lies within human n's distance to its k-th nearest other human. (N, M)."""
    others = human_NN.copy()
    np.fill_diagonal(others, np.inf)
    radius = np.partition(others, k - 1, axis=1)[:, k - 1]
    # Equal vectors differ by rounding in `distances`; a relative slack keeps them within a radius of zero.
    return (human_to_simulated_NM <= radius[:, None] + 1e-6).astype(np.float64)


def coverage(inside_NM: Floats, human_BN: Floats, simulated_BM: Floats) -> Floats:
    """Share of humans with a simulated conversation in their ball, one weighting a row. 0 to 1."""
    reached_BN = ((simulated_BM > 0).astype(np.float64) @ inside_NM.T) > 0
    share: Floats = (human_BN * reached_BN).sum(1) / human_BN.sum(1)
    return share


def density(inside_NM: Floats, human_BN: Floats, simulated_BM: Floats, k: int) -> Floats:
    """Mean number of human balls around a simulated conversation, over k. 1 for the same distribution."""
    hits = np.einsum("bn,bn->b", human_BN @ inside_NM, simulated_BM)
    mean: Floats = hits / (k * simulated_BM.sum(1)) * (len(inside_NM) / human_BN.sum(1))
    return mean


@dataclass(frozen=True)
class Coverage:
    neighbours: int = 5

    @property
    def specs(self) -> list[FigureSpec]:
        return [
            FigureSpec(
                key="coverage",
                metric="M3",
                label="coverage of human modes",
                unit="share",
                worse="lower",
                most=1.0,
            ),
            FigureSpec(
                key="density", metric="M3", label="density around humans", unit="ratio", worse="lower"
            ),
        ]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        vectors = Scale.of(pool).standardise(pool)
        apart = distances(vectors, vectors)
        rows = []
        for split in splits:
            human = apart[np.ix_(split.second, split.second)]
            inside = in_ball(human, apart[np.ix_(split.second, split.first)], self.neighbours)
            rows.append(self._both(inside, np.ones((1, len(human))), np.ones((1, len(split.first)))))
        return {
            "coverage": np.concatenate([c for c, _ in rows]),
            "density": np.concatenate([d for _, d in rows]),
        }

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        """Balls are those of the data as it is: resampled humans would be their own neighbours."""
        scale = Scale.of(pool)
        human_NF, simulated_MF = scale.standardise(human), scale.standardise(simulated)
        inside = in_ball(distances(human_NF, human_NF), distances(human_NF, simulated_MF), self.neighbours)
        value = self._both(inside, np.ones((1, len(human))), np.ones((1, len(simulated))))
        replicates = self._both(inside, draws.human_BN, draws.simulated_BN)
        return {
            key: Measured(float(value[i][0]), replicates[i]) for i, key in enumerate(("coverage", "density"))
        }

    def _both(self, inside: Floats, human_BN: Floats, simulated_BM: Floats) -> tuple[Floats, Floats]:
        return (
            coverage(inside, human_BN, simulated_BM),
            density(inside, human_BN, simulated_BM, self.neighbours),
        )
