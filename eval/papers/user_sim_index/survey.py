"""The Eval term of the User-Sim Index: agreement of simulated users' answers to the survey after a session with
people's.

For every task that both sides answered it is 100 (1 - mean over fields of |human - simulated|), with answers
scaled to [0, 1]. A field that the simulator left out gets a random level, as published: a missing answer must not
pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from eval.papers.user_sim_index.outcomes import HUMAN
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, interval, resamples, rng_for
from usersim.storage.records import read_records
from usersim.types import NonEmpty, Record

LEVELS = {
    "task_success": 5,
    "efficiency": 4,
    "question_amount": 2,
    "answer_effort": 3,
    "human_like": 3,
    "interaction_flow": 4,
    "overall": 5,
    "reuse": 5,
}
"""Levels of each field, 1 the worst. `question_amount`: 2 about right, 1 too many or too few."""


class Answers(Record):
    """Survey answers of one session; a line of the file of `--survey`."""

    by: NonEmpty
    """`human`, or the simulator's name."""
    task: NonEmpty
    run: int = Field(default=1, ge=1)
    levels: dict[str, int]

    @model_validator(mode="after")
    def _levels_exist(self) -> Answers:
        for key, level in self.levels.items():
            if not 1 <= level <= LEVELS.get(key, 0):
                raise ValueError(f"{key}: {level} (fields and highest levels: {LEVELS})")
        return self


class SurveyScore(Record):
    """Score of the survey term."""

    score: Estimate
    """0 to 100; interval over tasks."""
    invented: int
    """Answers that the simulator left out and that were replaced at random."""


def read_survey(path: Path) -> list[Answers]:
    return list(read_records(path, Answers))


def agreement(survey: Sequence[Answers], name: str, *, bootstrap: int, seed: int) -> SurveyScore:
    """Returns the survey score; sessions are paired by task and run. Raises DataError where no pair exists."""
    human_levels = {(a.task, a.run): a.levels for a in survey if a.by == HUMAN}
    simulated_levels = {(a.task, a.run): a.levels for a in survey if a.by == name}
    rng, invented, by_task = rng_for(seed, f"survey {name}"), 0, dict[str, list[float]]()
    for key in sorted(human_levels.keys() & simulated_levels.keys()):
        gaps = []
        for field, level in human_levels[key].items():
            random_level = int(rng.integers(1, LEVELS[field] + 1))
            invented += field not in simulated_levels[key]
            gaps.append(abs(level - simulated_levels[key].get(field, random_level)) / (LEVELS[field] - 1))
        if gaps:
            by_task.setdefault(key[0], []).append(100 * (1 - sum(gaps) / len(gaps)))
    if not by_task:
        raise DataError(f"{name}: no task and run in the survey that people answered too")
    total, size = (np.array([f(v) for v in by_task.values()], dtype=float) for f in (sum, len))
    counts = resamples(len(by_task), bootstrap, rng_for(seed, f"survey tasks {name}"))
    low, high = interval((counts @ total) / (counts @ size))
    score = Estimate(value=float(total.sum() / size.sum()), low=low, high=high, n=len(by_task))
    return SurveyScore(score=score, invented=invented)
