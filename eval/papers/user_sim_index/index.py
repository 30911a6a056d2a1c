"""D1 to D4 of the User-Sim Index as a metric family: Dice of two means, feature by feature (arXiv 2603.11245).

Dice of a feature is 2 min(S, H) / (S + H) of the simulated and the human mean over conversations, 1 where both
are zero. A dimension is 100 times the mean over its features. Only means are compared, so the index cannot detect
a simulator whose conversations are all equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from eval.fidelity.samples.features import Sample, user_texts
from eval.papers.user_sim_index.features import DIMENSION_NAMES, DIMENSIONS, FEATURES, features
from usersim.stats.estimates import Draws, FigureSpec, Floats, Measured, Split

BEHAVIOUR = "D1-D4"
KEYS = (*DIMENSIONS, BEHAVIOUR, *FEATURES)
SCORES = (*DIMENSIONS, BEHAVIOUR)


def matrix(sample: Sample) -> Floats:
    """Returns the features of a sample, (conversations, 19)."""
    rows = [_row(tuple(user_texts(c))) for c in sample.conversations]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))


@lru_cache(maxsize=20_000)
def _row(texts: tuple[str, ...]) -> tuple[float, ...]:
    """Returns a conversation's features. Cached, because the human baseline, the metrics and the published score
    read the same conversations."""
    return tuple(features(texts).values())


def dice(a: Floats, b: Floats) -> Floats:
    """Returns 2 min(a, b) / (a + b) of values that are not negative, 1 where both are zero. 0 to 1."""
    total = a + b
    shared: Floats = np.divide(2 * np.minimum(a, b), total, out=np.ones_like(total), where=total > 0)
    return shared


def scores(simulated_RF: Floats, human_RF: Floats) -> Floats:
    """Returns (…, 24) from feature means (…, 19), in the order of `KEYS`: dimensions and their mean 0 to 100, Dice 0
    to 1."""
    similar_RF = dice(simulated_RF, human_RF)
    groups = [[FEATURES.index(key) for key in keys] for keys in DIMENSIONS.values()]
    dimensions = [100 * similar_RF[..., group].mean(-1) for group in groups]
    mean = np.mean(dimensions, axis=0)
    return np.concatenate([np.stack([*dimensions, mean], axis=-1), similar_RF], axis=-1)


def weighted(counts_BN: Floats, values_NF: Floats) -> Floats:
    """Returns the means under each row of counts."""
    means: Floats = (counts_BN @ values_NF) / counts_BN.sum(1, keepdims=True)
    return means


class UserSimIndex:
    """The index as a metric family of the battery: at the same n, with a human baseline, without outcomes.

    Lower is further from human, so the human baseline is a ceiling: the score of one half of the people against
    another.
    """

    @property
    def specs(self) -> list[FigureSpec]:
        dimensions = [
            FigureSpec(
                key=key,
                metric="USI",
                label=f"{key}, {DIMENSION_NAMES.get(key, 'mean')}",
                unit="0 to 100",
                worse="lower",
                most=100.0,
                headline=key == BEHAVIOUR,
            )
            for key in SCORES
        ]
        return dimensions + [
            FigureSpec(key=key, metric="USI", label=key, unit="Dice", worse="lower", most=1.0, headline=False)
            for key in FEATURES
        ]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        values = matrix(pool)
        first, second = (
            np.array([values[half].mean(0) for half in halves])
            for halves in ([s.first for s in splits], [s.second for s in splits])
        )
        return dict(zip(KEYS, scores(first, second).T, strict=True))

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        simulated_rows, human_rows = matrix(simulated), matrix(human)
        value = scores(simulated_rows.mean(0), human_rows.mean(0))
        replicates = scores(
            weighted(draws.simulated_BN, simulated_rows), weighted(draws.human_BN, human_rows)
        )
        return {key: Measured(float(value[i]), replicates[:, i]) for i, key in enumerate(KEYS)}
