"""The battery: human against simulated conversations, without any judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from eval.estimates import Draws, Figure, Floats, floor_of, judge, resamples, rng_for
from eval.features import FEATURES, Feature, Sample
from eval.metrics.base import Metric
from eval.metrics.classifier import Classifier, telling_features, telling_ngrams
from eval.metrics.coverage import Coverage
from eval.metrics.gates import run_gates
from eval.metrics.marginals import Marginals, average, histogram
from eval.prepare import Prepared, prepare
from eval.report import FeatureShape, Report, SimulatorReport, Telling, headline, versions
from eval.settings import EvalConfig, Name
from usersim.types import Conversation

Progress = Callable[[str], None]
"""Called with the name of every step as it begins; `steps` says how many there are."""


def metrics(config: EvalConfig) -> list[Metric]:
    known: dict[Name, Metric] = {
        "marginals": Marginals(),
        "text": Classifier("text", config.folds, config.seed, config.text_characters),
        "behaviour": Classifier("behaviour", config.folds, config.seed),
        "coverage": Coverage(config.neighbours),
    }
    return [metric for name, metric in known.items() if name in config.metrics]


def steps(simulators: int, config: EvalConfig) -> int:
    return len(metrics(config)) + simulators


def run_battery(
    human: Sequence[Conversation],
    simulated: Mapping[str, Sequence[Conversation]],
    config: EvalConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Report:
    """Every simulator against the same human conversations, at the same n and beside the same floor.

    `human` should hold at least twice as many as each simulator: one half to compare with, one for the
    floor. Raises DataError for too few, and for records of the wrong origin.
    """
    config, started = config or EvalConfig(), time.monotonic()
    prepared = prepare(human, simulated, config)
    floors = _floors(prepared, config, progress)
    reports = []
    for name in prepared.simulated:
        if progress:
            progress(name)
        reports.append(_simulator(name, prepared, floors, config))
    return Report(
        n=prepared.n,
        turn_cap=prepared.turn_cap,
        turn_cap_from=prepared.turn_cap_from,
        human=prepared.human_side,
        simulators=tuple(reports),
        features=tuple(_shape(feature, prepared) for feature in FEATURES),
        notes=prepared.notes,
        config=config,
        versions=versions(),
        seconds=round(time.monotonic() - started, 2),
        human_examples=_examples(prepared.human, "human", config),
        simulated_examples={
            name: found
            for name, sample in prepared.simulated.items()
            if (found := _examples(sample, name, config))
        },
    )


def _floors(prepared: Prepared, config: EvalConfig, progress: Progress | None) -> dict[str, Floats]:
    splits, floors = prepared.splits(config), dict[str, Floats]()
    for metric in metrics(config):
        if progress:
            progress(f"human floor: {metric.specs[0].label}" if metric.specs else "human floor")
        floors |= metric.floor(prepared.human, splits)
    return floors


def _simulator(
    name: str, prepared: Prepared, floors: Mapping[str, Floats], config: EvalConfig
) -> SimulatorReport:
    simulated, human = prepared.compared(name, config.seed), prepared.compared_human(config.seed)
    rng = rng_for(config.seed, "bootstrap")
    draws = Draws(*(resamples(prepared.n, config.bootstrap, rng) for _ in range(2)))
    figures: list[Figure] = []
    for metric in metrics(config):
        measured = metric.measure(simulated, human, pool=prepared.human, draws=draws)
        figures += [
            judge(spec, measured[spec.key], floor_of(floors[spec.key]), prepared.n) for spec in metric.specs
        ]
    theirs, ours = (
        telling_ngrams(simulated, human, characters=config.text_characters)
        if "text" in config.metrics
        else ([], [])
    )
    return SimulatorReport(
        name=name,
        side=prepared.simulated_sides[name],
        headline=headline(figures, floors),
        # Shares are unbiased at any n, so the gates use every conversation that was kept.
        gates=tuple(
            run_gates(prepared.simulated[name].conversations, prepared.human.conversations, prepared.turn_cap)
        ),
        figures=tuple(figures),
        telling=Telling(
            simulated_ngrams=tuple(theirs),
            human_ngrams=tuple(ours),
            features=tuple(telling_features(simulated, human, prepared.human)),
        ),
    )


def _shape(feature: Feature, prepared: Prepared) -> FeatureShape:
    samples = prepared.simulated
    return FeatureShape(
        key=feature.key,
        label=feature.label,
        bins=tuple(feature.bin_labels()),
        is_share=not feature.log,
        human=tuple(histogram(feature, prepared.human)),
        human_average=average(feature, prepared.human),
        simulated={name: tuple(histogram(feature, sample)) for name, sample in samples.items()},
        simulated_average={name: average(feature, sample) for name, sample in samples.items()},
    )


def _examples(sample: Sample, name: str, config: EvalConfig) -> tuple[Conversation, ...]:
    order = rng_for(config.seed, f"examples {name}").permutation(len(sample))
    return tuple(sample.conversations[i] for i in order[: config.examples])
