"""Outcomes of tasks: the calibration error of the User-Sim Index, and its null distribution.

ECE is taken over five bins of task difficulty, the frozen share of successes in a file. For one run of the
simulator and one batch of people it is a weighted sum over the bins. The weight is (tasks of the bin / all
tasks), the term the absolute difference of their success rates. It is averaged over all pairs of run and batch
(arXiv 2603.11245; its public scorer). As an absolute difference of small samples it is never near zero: two draws
from the *same* success probabilities score about 0.075 over 165 tasks. That null is simulated here and
subtracted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, interval, resamples, rng_for
from usersim.storage.records import read_records
from usersim.types import NonEmpty, Record

CUTOFFS = (0.2, 0.4, 0.6, 0.8)
BINS = len(CUTOFFS) + 1
HUMAN = "human"
NULL_DRAWS = 2000


class SessionOutcome(Record):
    """Outcome of one session; a line of the file of `--outcomes`."""

    by: NonEmpty
    """`human`, or the simulator's name as in `--simulated`."""
    task: NonEmpty
    reward: float
    """Above zero is success."""
    run: int = Field(default=1, ge=1)
    """Run of the simulator, or batch of people."""


class DifficultyBin(Record):
    """Tasks of one difficulty, with the shares of successful sessions."""

    low: float
    high: float
    tasks: int
    human: float
    simulated: float


class OutcomeCalibration(Record):
    ece: Estimate
    """As published; interval over tasks."""
    null_median: float
    null_low: float
    null_high: float
    """2.5 % and 97.5 % of ECE when both sides have the success probabilities of the difficulty file."""
    null_mean: float
    excess: Estimate
    """ECE minus the null's mean: the part due to the simulator."""
    p: float
    """Share of null draws with an ECE at least as large."""
    human_human: float | None
    """Mean ECE between two batches of people."""
    runs: int
    batches: int
    by_batch: tuple[float, ...]
    bins: tuple[DifficultyBin, ...]
    left_out: int
    """Tasks of this simulator without human sessions or without a difficulty."""


def read_difficulty(path: Path) -> dict[str, float]:
    """Reads the share of successes by task: `{task: share}`, or the same under the key "difficulty"."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        entries = value["difficulty"] if isinstance(value.get("difficulty"), dict) else value
        difficulties = {str(task): float(share) for task, share in entries.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f'{path}: needs a JSON object of task and share of successes, or {{"difficulty": …}}'
        ) from error
    invalid_tasks = [task for task, share in difficulties.items() if not 0 <= share <= 1]
    if invalid_tasks or not difficulties:
        raise DataError(
            f"{path}: {f'task {invalid_tasks[0]!r} is not a share' if invalid_tasks else 'no tasks'}"
        )
    return difficulties


def read_outcomes(path: Path) -> list[SessionOutcome]:
    outcomes = list(read_records(path, SessionOutcome))
    keys = {(o.by, o.task, o.run) for o in outcomes}
    if len(keys) < len(outcomes):
        raise DataError(f"{path}: two outcomes of one (by, task, run); give every session its own run number")
    return outcomes


def table(outcomes: Sequence[SessionOutcome], by: str, tasks: Sequence[str]) -> Floats:
    """Returns (tasks, runs) of 1 for success, 0 for failure, NaN for unknown."""
    runs = sorted({o.run for o in outcomes if o.by == by})
    row_of = {task: row for row, task in enumerate(tasks)}
    results = np.full((len(tasks), len(runs)), np.nan)
    for outcome in outcomes:
        if outcome.by == by and outcome.task in row_of:
            results[row_of[outcome.task], runs.index(outcome.run)] = float(outcome.reward > 0)
    return results


def pair_ece(a_T: Floats, b_T: Floats, bins_TK: Floats, counts_BT: Floats) -> Floats:
    """Returns the ECE of one run and one batch under every row of task counts; NaN where no task has both."""
    is_known = ~np.isnan(a_T + b_T)
    gap_T = np.where(is_known, a_T - b_T, 0.0)
    total = counts_BT @ is_known.astype(np.float64)
    abs_gaps = np.abs((counts_BT * gap_T) @ bins_TK).sum(-1)
    error: Floats = np.divide(abs_gaps, total, out=np.full_like(total, np.nan), where=total > 0)
    return error


def mean_ece(a_TR: Floats, b_TS: Floats, bins_TK: Floats, counts_BT: Floats) -> Floats:
    """Returns the mean over all pairs of a column of each side."""
    pairs = [pair_ece(a, b, bins_TK, counts_BT) for a in a_TR.T for b in b_TS.T]
    mean: Floats = np.nanmean(np.array(pairs), axis=0)
    return mean


def bin_rows(difficulty: Sequence[float]) -> Floats:
    """Returns (tasks, 5) with a one in the bin of each task; a difficulty on a cut-off belongs to the bin above it."""
    rows: Floats = np.eye(BINS)[np.searchsorted(CUTOFFS, difficulty, side="right")]
    return rows


def null_ece(a_TR: Floats, b_TS: Floats, p_T: Floats, *, draws: int, seed: int) -> Floats:
    """Returns the ECE of `draws` pairs of tables with the shape and gaps of these, both with success probability
    `p_T`."""
    rng, bins, weights = rng_for(seed, "null of ECE"), bin_rows(list(p_T)), np.ones((1, len(p_T)))
    missing = [np.isnan(side) for side in (a_TR, b_TS)]
    eces = []
    for _ in range(draws):
        sampled_tables = [np.where(m, np.nan, rng.random(m.shape) < p_T[:, None]) for m in missing]
        eces.append(mean_ece(sampled_tables[0], sampled_tables[1], bins, weights)[0])
    return np.array(eces)


def calibrate(
    outcomes: Sequence[SessionOutcome],
    name: str,
    difficulty: Mapping[str, float],
    *,
    bootstrap: int,
    seed: int,
    draws: int = NULL_DRAWS,
) -> OutcomeCalibration:
    """Returns the calibration of a simulator. Raises DataError where it shares no task with people, or no difficulty
    is known."""
    human_tasks = {o.task for o in outcomes if o.by == HUMAN}
    simulated_tasks = {o.task for o in outcomes if o.by == name}
    tasks = sorted(simulated_tasks & human_tasks & difficulty.keys())
    if not tasks:
        raise DataError(f"{name}: no task with an outcome of people, one of {name}, and a difficulty")
    p_T = np.array([difficulty[task] for task in tasks])
    a, b, bins = table(outcomes, name, tasks), table(outcomes, HUMAN, tasks), bin_rows(list(p_T))
    once = np.ones((1, len(tasks)))
    value = float(mean_ece(a, b, bins, once)[0])
    counts = resamples(len(tasks), bootstrap, rng_for(seed, f"ECE {name}"))
    # Resampling adds noise, and noise moves an absolute difference up: centred on the value.
    replicates = mean_ece(a, b, bins, counts)
    low, high = interval(replicates - np.median(replicates) + value)
    null = null_ece(a, b, p_T, draws=draws, seed=seed)
    null_low, null_high = interval(null)
    shift = float(null.mean())
    return OutcomeCalibration(
        ece=Estimate(value=value, low=max(0.0, low), high=min(1.0, high), n=len(tasks)),
        null_median=float(np.median(null)),
        null_low=null_low,
        null_high=null_high,
        null_mean=shift,
        excess=Estimate(value=value - shift, low=low - shift, high=high - shift, n=len(tasks)),
        p=float((1 + (null >= value).sum()) / (1 + len(null))),
        human_human=_between_batches(b, bins),
        runs=a.shape[1],
        batches=b.shape[1],
        by_batch=tuple(float(mean_ece(a, column[:, None], bins, once)[0]) for column in b.T),
        bins=tuple(_bins(a, b, bins)),
        left_out=len(simulated_tasks) - len(tasks),
    )


def _between_batches(human_TS: Floats, bins_TK: Floats) -> float | None:
    once, n = np.ones((1, len(human_TS))), human_TS.shape[1]
    pairs = [
        pair_ece(human_TS[:, i], human_TS[:, j], bins_TK, once)[0] for i in range(n) for j in range(i + 1, n)
    ]
    return float(np.nanmean(pairs)) if pairs else None


def _bins(a_TR: Floats, b_TS: Floats, bins_TK: Floats) -> list[DifficultyBin]:
    edges, bins = (0.0, *CUTOFFS, 1.0), []
    for k in range(BINS):
        in_bin = bins_TK[:, k] > 0
        if in_bin.any():
            bins.append(
                DifficultyBin(
                    low=edges[k],
                    high=edges[k + 1],
                    tasks=int(in_bin.sum()),
                    human=float(np.nanmean(b_TS[in_bin])),
                    simulated=float(np.nanmean(a_TR[in_bin])),
                )
            )
    return bins
