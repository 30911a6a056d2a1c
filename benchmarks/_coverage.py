"""Coverage of confidence intervals, over repetitions from an unlimited population or from a file of real people.

The truth of a metric is what samples of this size show on average, from `truths` independent pairs of samples drawn
beside the repetitions (see `eval.fidelity.verdicts`). On both sides conversations come in clusters: people have
several, and goals are given several times. A metric counts as far from human if its true excess is more than one
width of the human baseline. Those must cover 92-98 %. Near the baseline, intervals are too wide by construction and
cover more.

W1 is stated in standard deviations of the human conversations at hand. This unit is fixed, like the baseline beside
it. An interval does not cover how the unit varies with people, so the truth is stated in the same unit.
`value_with_unit_noise` is the alternative: the truth in its own average unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._draws import PeopleSource
from benchmarks._repetitions import RepetitionLog, Row, repeat
from benchmarks._shifts import polite_share, politer, shortened, wordier
from eval.fidelity.battery import run_battery
from eval.fidelity.catalogue import metric_families
from eval.fidelity.metrics.texts.marginals import spread
from eval.fidelity.samples.features import FEATURES, Sample
from eval.fidelity.samples.invented import invented
from eval.fidelity.settings import EvalConfig
from usersim.stats.estimates import Draws, Floats, Split
from usersim.types import Conversation

CLUSTER = 3
"""Conversations per person and per goal, for invented ones."""


def interval_coverage(
    source: PeopleSource,
    n: int,
    repeats: int,
    truths: int,
    config: EvalConfig,
    log: RepetitionLog,
    processes: int | None,
) -> dict[str, Any]:
    """Returns the coverage over all metrics far from the baseline, near it, and of each metric."""
    truth = repeat("truth", log, truths, partial(_true_values, source, n, config), processes)
    rows = repeat("interval", log, repeats, partial(_interval, source, n, config), processes)
    keys = sorted(
        set.intersection(*(set(row["figures"]) for row in rows), *(set(row["figures"]) for row in truth))
    )
    by_metric = {key: _covered(key, rows, truth) for key in keys}
    coverage = {key: row for key, row in by_metric.items() if row is not None}
    far = [row["value"] for row in coverage.values() if row["true_floor_widths"] > 1]
    near = [row["value"] for row in coverage.values() if row["true_floor_widths"] <= 1]
    return {
        "interval_coverage": _mean(far),
        "interval_coverage_least": min(far, default=None),
        "interval_coverage_most": max(far, default=None),
        "interval_coverage_excess": _mean(
            [row["excess"] for row in coverage.values() if row["true_floor_widths"] > 1]
        ),
        "interval_coverage_near_floor": _mean(near),
        "interval_coverage_figures": coverage,
        "interval_coverage_repetitions": len(rows),
        "interval_coverage_truths": len(truth),
        "interval_coverage_n": n,
    }


def sides(source: PeopleSource, n: int, index: int) -> tuple[list[Conversation], list[Conversation]]:
    """Returns 2n human conversations and n of a simulator that is off in most attributes."""
    if source.path is None:
        human = invented(2 * n, 2 * index, per_person=CLUSTER)
        simulated = invented(
            n,
            2 * index + 1,
            origin="simulated",
            words=1.5,
            politeness=0.3,
            leave=0.5,
            lower=0.65,
            questions=0.5,
            stops=0.25,
            per_person=CLUSTER,
        )
        return human, simulated
    people = source.draw(3 * n, index)
    rate = _population_rate(source.path, source.most)
    off = shortened(politer(wordier(people[2 * n :], index, by=0.6), index, rate), index)
    return people[: 2 * n], source.relabelled(off)


@cache
def _population_rate(path: Path | None, most: int | None) -> float:
    """Returns the share of polite turns over all people.

    Measured in the sample itself, the share would make its conversations depend on each other. A bootstrap of
    conversations could not see that part of the noise.
    """
    return polite_share(PeopleSource(path, most).all_people())


def _interval(source: PeopleSource, n: int, config: EvalConfig, index: int) -> Row:
    human, simulated = sides(source, n, index)
    seeded = config.model_copy(update={"seed": index, "processes": 1})
    report = run_battery(human, {"s": simulated}, seeded).simulators[0]
    return {
        "units": _units(Sample.of(human)),
        "figures": {
            f.key: [f.value.value, f.value.low, f.value.high, f.excess.low, f.excess.high]
            for f in report.figures
        },
    }


def _true_values(source: PeopleSource, n: int, config: EvalConfig, index: int) -> Row:
    """Returns one pair of independent samples: each metric of simulated against human, its baseline and direction."""
    human, simulated = (Sample.of(side) for side in sides(source, n, 1_000_000 + index))
    groups = [Split(np.arange(n), np.arange(n, 2 * n))]
    ones = Draws(np.ones((1, n)), np.ones((1, n)))
    by_metric = {}
    for metric in metric_families(config).values():
        baselines = metric.floor(human, groups)
        estimates = metric.measure(simulated, human.take(np.arange(n)), pool=human, draws=ones)
        for spec in metric.specs:
            if spec.key in estimates and np.isfinite(baselines[spec.key][0]):
                sign = 1 if spec.worse == "higher" else -1
                by_metric[spec.key] = [estimates[spec.key].value, float(baselines[spec.key][0]), sign]
    return {"units": _units(human), "figures": by_metric}


def _units(people: Sample) -> dict[str, float]:
    """Returns the units of the metrics that are stated in standard deviations of these people."""
    return {f"{feature.key}.w1": spread(feature, people) for feature in FEATURES}


def _covered(key: str, rows: Sequence[Row], truth: Sequence[Row]) -> dict[str, float] | None:
    values, baselines, signs = np.array([t["figures"][key] for t in truth]).T
    sign, units = float(signs[0]), np.array([t["units"].get(key, 1.0) for t in truth])
    expected = float((values * units).mean())
    low, middle, high = np.quantile(baselines * units, [0.025, 0.5, 0.975])
    width = baseline_width(low, middle, high, sign)
    if values.std() < 1e-9 or width < 1e-9:
        return None
    row_units = np.array([row["units"].get(key, 1.0) for row in rows])
    _, value_low, value_high, excess_low, excess_high = np.array([row["figures"][key] for row in rows]).T
    excess = sign * (expected - float(middle))
    return {
        "value": _share_inside(value_low * row_units, expected, value_high * row_units),
        "value_with_unit_noise": _share_inside(value_low, float(values.mean()), value_high),
        "excess": _share_inside(excess_low * row_units, excess, excess_high * row_units),
        "truth": float(values.mean()),
        "true_floor_widths": excess / width,
    }


def _share_inside(low_R: Floats, truth: float, high_R: Floats) -> float:
    return float(((low_R <= truth) & (truth <= high_R)).mean())


def baseline_width(low: float, middle: float, high: float, sign: float) -> float:
    return float(high - middle if sign > 0 else middle - low)


def _mean(shares: Sequence[float]) -> float | None:
    return float(np.mean(shares)) if shares else None
