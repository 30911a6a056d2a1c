"""Scores of assistants by task and person, and their means on resamples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import Field
from scipy.stats import norm  # type: ignore[import-untyped]

from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, Ints, interval
from usersim.storage.records import read_records
from usersim.types import NonEmpty, Record

CELLS = 4_000_000
"""Resampled scores held at once: 32 MB."""


class Score(Record):
    """Line of a score file: the score of one conversation. Higher is better."""

    assistant: NonEmpty
    task: NonEmpty
    score: float
    person: str | None = None
    """The rater, or the simulated persona; without it every score counts as a different person."""
    difficulty: float | None = Field(default=None, ge=0, le=1)
    """Success rate of the task, fixed beforehand from other runs."""


def read_scores(path: str | Path) -> list[Score]:
    scores = list(read_records(path, Score))
    if not scores:
        raise DataError(f"{path}: no scores; every line needs assistant, task, score and, if known, person")
    return scores


@dataclass(frozen=True)
class ScoreTable:
    """Scores of one side by index. K assistants, N scores; tasks have the same numbers on both sides."""

    assistants: tuple[str, ...]
    score_N: Floats
    assistant_N: Ints
    task_N: Ints
    person_N: Ints

    @classmethod
    def of(cls, scores: Sequence[Score], assistants: Sequence[str], tasks: Sequence[str]) -> ScoreTable:
        """Builds the table; scores of other assistants are left out."""
        assistant_index = {name: index for index, name in enumerate(assistants)}
        task_index = {name: index for index, name in enumerate(tasks)}
        table_scores = [score for score in scores if score.assistant in assistant_index]
        people = [score.person or f"\0{index}" for index, score in enumerate(table_scores)]
        person_index = {name: index for index, name in enumerate(dict.fromkeys(people))}
        return cls(
            tuple(assistants),
            np.array([score.score for score in table_scores], dtype=np.float64),
            np.array([assistant_index[score.assistant] for score in table_scores], dtype=np.int64),
            np.array([task_index[score.task] for score in table_scores], dtype=np.int64),
            np.array([person_index[name] for name in people], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.score_N)

    @property
    def people(self) -> int:
        return int(self.person_N.max()) + 1

    @cached_property
    def _one_hot_NK(self) -> Floats:
        return np.eye(len(self.assistants), dtype=np.float64)[self.assistant_N]

    @property
    def sizes_K(self) -> Ints:
        """(K,) scores of every assistant."""
        return np.bincount(self.assistant_N, minlength=len(self.assistants)).astype(np.int64)

    @cached_property
    def means_K(self) -> Floats:
        (means,) = self.means_under(np.ones((1, len(self))))
        return np.asarray(means, dtype=np.float64)

    def means_under(self, weights_BN: Floats) -> Floats:
        """(B, K) weighted mean score of every assistant; NaN where it has no weight."""
        weight_BK = weights_BN @ self._one_hot_NK
        with np.errstate(invalid="ignore"):
            means: Floats = (weights_BN * self.score_N) @ self._one_hot_NK / weight_BK
        return means

    def resampled_means(self, task_BT: Floats, rng: np.random.Generator) -> Floats:
        """Returns (B, K) means when tasks count `task_BT` times and people are drawn with replacement.

        Where people are nested in tasks, or tasks in people, only the coarser unit is resampled. Where they
        cross, both are (Owen 2007, the pigeonhole bootstrap, which errs on the wide side).
        """
        by_task = not _nested(self.task_N, self.person_N) or _nested(self.person_N, self.task_N)
        by_person = not _nested(self.person_N, self.task_N)
        portion = max(1, CELLS // max(1, len(self)))
        parts = []
        for start in range(0, len(task_BT), portion):
            rows = task_BT[start : start + portion]
            weights = rows[:, self.task_N] if by_task else np.ones((len(rows), len(self)))
            if by_person:
                even = np.full(self.people, 1 / self.people)
                weights = weights * rng.multinomial(self.people, even, size=len(rows))[:, self.person_N]
            parts.append(self.means_under(weights.astype(np.float64)))
        return np.concatenate(parts)


def _nested(inner: Ints, outer: Ints) -> bool:
    """Tests whether every `inner` occurs with only one `outer`."""
    pairs = {(int(i), int(o)) for i, o in zip(inner, outer, strict=True)}
    return len(pairs) == len({i for i, _ in pairs})


def mean_estimate(value: float, replicates: Floats, n: int) -> Estimate:
    finite_values = replicates[~np.isnan(replicates)]
    low, high = interval(finite_values) if len(finite_values) else (value, value)
    return Estimate(value=value, low=low, high=high, n=n)


def bias_corrected(value: float, replicates: Floats) -> tuple[float, float]:
    """Returns the 95 % interval whose percentiles are moved by twice the median bias (Efron & Tibshirani 1993,
    §14.3).

    Rank correlations shrink when noise is added, and a resample adds noise: plain percentiles are too low.
    """
    finite_values = replicates[~np.isnan(replicates)]
    below = ((finite_values < value).mean() + (finite_values <= value).mean()) / 2
    z0 = norm.ppf(np.clip(below, 1 / len(finite_values), 1 - 1 / len(finite_values)))
    low, high = np.quantile(finite_values, norm.cdf([2 * z0 - 1.96, 2 * z0 + 1.96]))
    return float(low), float(high)
