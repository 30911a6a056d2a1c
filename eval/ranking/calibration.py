"""Calibration of simulated success rates against people's, by task difficulty, with its null distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.ranking.scores import Score
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, Ints, interval, resamples, rng_for
from usersim.types import Record

CUTS = (0.2, 0.4, 0.6, 0.8)
"""Cut points of a task's difficulty (success rate over other runs): five strata, fixed before any score is seen."""
LABELS = ("below .2", ".2 to .4", ".4 to .6", ".6 to .8", ".8 and above")


class DifficultyStratum(Record):
    label: str
    tasks: int
    human: float
    simulated: float
    bias: Estimate
    """simulated - human success, resampling tasks; n = tasks."""


class Ece(Record):
    value: float
    null_median: float
    """Median ECE of two draws from the same success probabilities: the value of a perfect simulator."""
    null_low: float
    null_high: float
    """97.5 % quantile: above it the rates differ."""
    excess: float
    """value - null median; may be negative."""
    p: float
    """Share of the null distribution at or beyond the value."""


class CalibrationReport(Record):
    tasks: int
    human_runs: float
    """Mean number of human scores per task."""
    simulated_runs: float
    bias: Estimate
    strata: tuple[DifficultyStratum, ...]
    ece: Ece | None
    """None without difficulties."""
    brier: float
    """Mean over human scores of (simulated success rate of the task - success)²."""
    brier_of_base_rate: float
    """Brier score when every task is given the human mean."""
    notes: tuple[str, ...]


def strata_of(difficulty_T: Floats) -> Ints:
    return np.asarray(np.digitize(difficulty_T, CUTS), dtype=np.int64)


def ece_rows(simulated_BT: Floats, human_BT: Floats, stratum_T: Ints) -> Floats:
    """Returns (B,) Σ over strata of n/N · |mean simulated - mean human success| (Zhou et al. 2026, τ-bench with
    people)."""
    one_hot = np.eye(int(stratum_T.max()) + 1)[stratum_T]
    gaps = np.abs((simulated_BT - human_BT) @ one_hot).sum(1)
    return np.asarray(gaps / len(stratum_T))


def null_ece(
    p_T: Floats,
    stratum_T: Ints,
    *,
    simulated_runs: Ints | int = 1,
    human_runs: Ints | int = 1,
    pairs: bool = False,
    repeats: int = 2000,
    rng: np.random.Generator,
) -> Floats:
    """Returns (repeats,) ECEs of two independent sides with the same success probability `p_T` on every task.

    Runs of a task are pooled before the strata are compared. With `pairs`, the ECE of every simulated run with
    every human run is averaged instead, as the User-Sim Index does; noise makes this value larger.
    """
    if not pairs:
        simulated, human = (
            rng.binomial(runs, p_T, (repeats, len(p_T))) / runs for runs in (simulated_runs, human_runs)
        )
        return ece_rows(simulated, human, stratum_T)
    runs = (int(np.max(simulated_runs)), int(np.max(human_runs)))
    sides = [rng.random((count, repeats, len(p_T))) < p_T for count in runs]
    eces = [
        ece_rows(simulated_run.astype(np.float64), human_run.astype(np.float64), stratum_T)
        for simulated_run in sides[0]
        for human_run in sides[1]
    ]
    return np.asarray(np.mean(eces, axis=0))


def calibrate(
    human: Sequence[Score],
    simulated: Sequence[Score],
    *,
    bootstrap: int = 2000,
    seed: int = 0,
) -> CalibrationReport:
    """Compares success rates per task and assistant. Scores must be 0 or 1.

    Only tasks with scores on both sides count. Under the null all tasks of a stratum succeed with its pooled
    rate, the noisiest case that the stratum's rate allows.
    """
    human_scores, simulated_scores = _by_task(human), _by_task(simulated)
    shared_tasks = sorted(human_scores.keys() & simulated_scores.keys())
    if not shared_tasks:
        raise DataError("no task of any assistant was scored on both sides; calibration pairs them by name")
    rate_h, rate_s = (
        np.array([np.mean(side[t]) for t in shared_tasks]) for side in (human_scores, simulated_scores)
    )
    rng = rng_for(seed, "calibration")
    counts_BT = resamples(len(shared_tasks), bootstrap, rng)
    difficulty = _difficulty(human, simulated, shared_tasks)
    strata = None if difficulty is None else strata_of(difficulty)
    outcomes = [(rate_s[i], y) for i, task in enumerate(shared_tasks) for y in human_scores[task]]
    base = float(np.mean([y for _, y in outcomes]))
    runs_h, runs_s = (
        np.array([len(side[t]) for t in shared_tasks], dtype=np.int64)
        for side in (human_scores, simulated_scores)
    )
    return CalibrationReport(
        tasks=len(shared_tasks),
        human_runs=float(runs_h.mean()),
        simulated_runs=float(runs_s.mean()),
        bias=_bias(rate_s - rate_h, counts_BT),
        strata=() if strata is None else _strata(rate_h, rate_s, strata, counts_BT),
        ece=None if strata is None else _ece(rate_h, rate_s, runs_h, runs_s, strata, rng),
        brier=float(np.mean([(p - y) ** 2 for p, y in outcomes])),
        brier_of_base_rate=float(np.mean([(base - y) ** 2 for _, y in outcomes])),
        notes=_notes(human_scores.keys() ^ simulated_scores.keys(), difficulty is None),
    )


Task = tuple[str, str]


def _by_task(scores: Sequence[Score]) -> dict[Task, list[float]]:
    by_task: dict[Task, list[float]] = {}
    for score in scores:
        if score.score not in (0, 1):
            raise DataError(f"calibration needs scores of 0 or 1; {score.assistant} has {score.score:g}")
        by_task.setdefault((score.assistant, score.task), []).append(score.score)
    return by_task


def _difficulty(human: Sequence[Score], simulated: Sequence[Score], shared: Sequence[Task]) -> Floats | None:
    difficulty_by_task = {s.task: s.difficulty for s in (*simulated, *human) if s.difficulty is not None}
    difficulties = [difficulty_by_task.get(task) for _, task in shared]
    return None if None in difficulties else np.array(difficulties, dtype=np.float64)


def _bias(gap_T: Floats, counts_BT: Floats) -> Estimate:
    weight = counts_BT.sum(1)
    is_positive = weight > 0
    low, high = interval((counts_BT @ gap_T)[is_positive] / weight[is_positive])
    return Estimate(value=float(gap_T.mean()), low=low, high=high, n=len(gap_T))


def _strata(
    human_T: Floats, simulated_T: Floats, stratum_T: Ints, counts_BT: Floats
) -> tuple[DifficultyStratum, ...]:
    strata = []
    for index, label in enumerate(LABELS):
        in_stratum = stratum_T == index
        if in_stratum.any():
            simulated_rates, human_rates = simulated_T[in_stratum], human_T[in_stratum]
            strata.append(
                DifficultyStratum(
                    label=label,
                    tasks=int(in_stratum.sum()),
                    human=float(human_rates.mean()),
                    simulated=float(simulated_rates.mean()),
                    bias=_bias(simulated_rates - human_rates, counts_BT[:, in_stratum]),
                )
            )
    return tuple(strata)


def _ece(
    human_T: Floats,
    simulated_T: Floats,
    runs_h: Ints,
    runs_s: Ints,
    stratum_T: Ints,
    rng: np.random.Generator,
) -> Ece:
    successes, runs = human_T * runs_h + simulated_T * runs_s, runs_h + runs_s
    pooled = [successes[stratum_T == s].sum() / runs[stratum_T == s].sum() for s in np.unique(stratum_T)]
    p_T = np.array(pooled)[np.unique(stratum_T, return_inverse=True)[1]]
    null = null_ece(p_T, stratum_T, simulated_runs=runs_s, human_runs=runs_h, rng=rng)
    value = float(ece_rows(simulated_T[None], human_T[None], stratum_T)[0])
    low, median, high = np.quantile(null, [0.025, 0.5, 0.975])
    return Ece(
        value=value,
        null_median=float(median),
        null_low=float(low),
        null_high=float(high),
        excess=value - float(median),
        p=float((1 + (null >= value).sum()) / (1 + len(null))),
    )


def _notes(one_sided: set[Task], unknown_difficulty: bool) -> tuple[str, ...]:
    notes = []
    if one_sided:
        notes.append(f"{len(one_sided)} tasks were scored on one side only and are left out")
    if unknown_difficulty:
        notes.append("no `difficulty` on every task, fixed from other runs: no strata and no ECE")
    return tuple(notes)
