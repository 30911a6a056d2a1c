"""Do the intervals cover the truth? Repetitions from populations without end, or from a file of real people.

The truth of a figure is what samples of this size show on average, from `truths` independent pairs of samples drawn
beside the repetitions (`eval.fidelity.verdicts` says why). On both sides conversations come in clusters:
people have several, goals are given several times. A figure counts as far from human where its true excess is
more than one floor width.
Those are held to 92-98 %; near the floor the intervals are too wide by construction and cover more.

W1 is told in standard deviations of the human conversations at hand. That unit is given, as the floor beside it is:
an interval says nothing about how the unit would differ with other people, so the truth is told in the same unit.
`value_with_unit_noise` counts what the other reading would: the truth in its own average unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._draws import Source
from benchmarks._repetitions import Journal, Row, repeat
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
"""Conversations per person and per goal, where they are invented."""


def interval_coverage(
    source: Source,
    n: int,
    repeats: int,
    truths: int,
    config: EvalConfig,
    journal: Journal,
    processes: int | None,
) -> dict[str, Any]:
    """Keys of the result file: the share over all figures far from the floor, near it, and every figure's own."""
    truth = repeat("truth", journal, truths, partial(_true, source, n, config), processes)
    rows = repeat("interval", journal, repeats, partial(_interval, source, n, config), processes)
    keys = sorted(
        set.intersection(*(set(row["figures"]) for row in rows), *(set(t["figures"]) for t in truth))
    )
    figures = {key: _covered(key, rows, truth) for key in keys}
    moving = {key: found for key, found in figures.items() if found is not None}
    far = [found["value"] for found in moving.values() if found["true_floor_widths"] > 1]
    near = [found["value"] for found in moving.values() if found["true_floor_widths"] <= 1]
    return {
        "interval_coverage": _mean(far),
        "interval_coverage_least": min(far, default=None),
        "interval_coverage_most": max(far, default=None),
        "interval_coverage_excess": _mean(
            [f["excess"] for f in moving.values() if f["true_floor_widths"] > 1]
        ),
        "interval_coverage_near_floor": _mean(near),
        "interval_coverage_figures": moving,
        "interval_coverage_repetitions": len(rows),
        "interval_coverage_truths": len(truth),
        "interval_coverage_n": n,
    }


def sides(source: Source, n: int, index: int) -> tuple[list[Conversation], list[Conversation]]:
    """(2n people, n conversations of a simulator that is off in most attributes)."""
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
    """Of everybody: a rate read off the sample itself would tie its conversations to each other, and no bootstrap of
    conversations could see that part of the noise."""
    return polite_share(Source(path, most).everybody())


def _interval(source: Source, n: int, config: EvalConfig, index: int) -> Row:
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


def _true(source: Source, n: int, config: EvalConfig, index: int) -> Row:
    """One independent pair: each figure of simulated against human, of human against human, and its direction."""
    human, simulated = (Sample.of(side) for side in sides(source, n, 1_000_000 + index))
    groups = [Split(np.arange(n), np.arange(n, 2 * n))]
    ones = Draws(np.ones((1, n)), np.ones((1, n)))
    figures = {}
    for metric in metric_families(config).values():
        floors = metric.floor(human, groups)
        found = metric.measure(simulated, human.take(np.arange(n)), pool=human, draws=ones)
        for spec in metric.specs:
            if spec.key in found and np.isfinite(floors[spec.key][0]):
                sign = 1 if spec.worse == "higher" else -1
                figures[spec.key] = [found[spec.key].value, float(floors[spec.key][0]), sign]
    return {"units": _units(human), "figures": figures}


def _units(people: Sample) -> dict[str, float]:
    """Of the figures that are told in standard deviations of these people."""
    return {f"{feature.key}.w1": spread(feature, people) for feature in FEATURES}


def _covered(key: str, rows: Sequence[Row], truth: Sequence[Row]) -> dict[str, float] | None:
    values, floors, signs = np.array([t["figures"][key] for t in truth]).T
    sign, units = float(signs[0]), np.array([t["units"].get(key, 1.0) for t in truth])
    expected = float((values * units).mean())
    low, middle, high = np.quantile(floors * units, [0.025, 0.5, 0.975])
    width = floor_width_of(low, middle, high, sign)
    if values.std() < 1e-9 or width < 1e-9:
        return None
    given = np.array([row["units"].get(key, 1.0) for row in rows])
    _, value_low, value_high, excess_low, excess_high = np.array([row["figures"][key] for row in rows]).T
    excess = sign * (expected - float(middle))
    return {
        "value": _share_inside(value_low * given, expected, value_high * given),
        "value_with_unit_noise": _share_inside(value_low, float(values.mean()), value_high),
        "excess": _share_inside(excess_low * given, excess, excess_high * given),
        "truth": float(values.mean()),
        "true_floor_widths": excess / width,
    }


def _share_inside(low_R: Floats, truth: float, high_R: Floats) -> float:
    return float(((low_R <= truth) & (truth <= high_R)).mean())


def floor_width_of(low: float, middle: float, high: float, sign: float) -> float:
    return float(high - middle if sign > 0 else middle - low)


def _mean(shares: Sequence[float]) -> float | None:
    return float(np.mean(shares)) if shares else None
