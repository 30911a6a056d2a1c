"""The battery: metrics of human against simulated conversations, without an LLM judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from eval.fidelity.catalogue import metric_families, metric_family, specs
from eval.fidelity.examples import nearest_and_farthest, quiz_items, sampled_conversations, shape_of, share_of
from eval.fidelity.metrics.gates import run_gates
from eval.fidelity.metrics.metric_protocol import Curve, Curves
from eval.fidelity.metrics.texts.copies import copies_gate
from eval.fidelity.parallel import cores, in_order
from eval.fidelity.report_record import Report, SimulatorReport, Telling, headline, versions
from eval.fidelity.samples.features import FEATURES, Sample
from eval.fidelity.samples.prepare import Prepared, draws_of, longer_share, prepare
from eval.fidelity.settings import SLOW, EvalConfig, Name
from eval.fidelity.verdicts import judge, together, why_missing, without_equivalence
from usersim.errors import DataError
from usersim.stats.estimates import Draws, Figure, Floats, Measured, Split
from usersim.types import Conversation
from usersim.users.guards import Guards

S = TypeVar("S")
Progress = Callable[[str], None]
"""Callback that receives the name of each finished step; `steps` returns their number."""

CHUNK = 50
"""Splits of a slow family's human baseline in one task. Fixed, so that the number of processes changes no result."""
WORTH_PROCESSES = 20_000
"""Splits times conversations below which starting processes costs more than it saves."""


def steps(simulators: int, config: EvalConfig) -> int:
    pieces = sum(len(_chunks(name, range(config.floor_repeats))) for name in metric_families(config))
    return pieces + len(metric_families(config)) * simulators


def _chunks(name: Name, splits: Sequence[S]) -> list[Sequence[S]]:
    size = CHUNK if name in SLOW else len(splits)
    return [splits[start : start + size] for start in range(0, len(splits), size)]


@dataclass(frozen=True)
class FamilyValues:
    """Values of one metric family for one simulator."""

    measured: dict[str, Measured]
    curves: tuple[Curve, ...]


def run_battery(
    human: Sequence[Conversation],
    simulated: Mapping[str, Sequence[Conversation]],
    config: EvalConfig | None = None,
    *,
    guards: Mapping[str, Guards | None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compares every simulator with the same human conversations, at equal n and with the same human baseline.

    Args:
        human: One half to compare with, one for the baseline: at least 2n conversations.
        guards: Guards of each simulator; None: unknown.
        progress: Called after every step.

    Raises:
        DataError: Too few conversations, records of the wrong origin, or sets that cannot be compared.
    """
    config, start_time = config or EvalConfig(), time.monotonic()
    prepared = prepare(human, simulated, config)
    compared = {name: prepared.compared(name, config.seed) for name in prepared.simulated}
    compared_human = prepared.compared_human(config.seed)
    draws = {name: draws_of(sample, compared_human, config) for name, sample in compared.items()}
    floors, family_values = measure_all(
        prepared, compared, compared_human, draws, config, progress or (lambda _: None)
    )
    reports = [
        _simulator(
            name,
            prepared,
            compared[name],
            compared_human,
            floors,
            family_values[name],
            draws[name],
            config,
            (guards or {}).get(name),
        )
        for name in compared
    ]
    quiz_length = config.quiz if config.examples else 0
    return Report(
        n=prepared.n,
        turn_cap=prepared.turn_cap,
        turn_cap_from=prepared.turn_cap_from,
        human=prepared.human_side,
        simulators=tuple(reports),
        features=tuple(shape_of(feature, prepared) for feature in FEATURES),
        notes=(*prepared.notes, _margin_note(config), *_copy_notes(reports)),
        config=config,
        versions=versions(),
        seconds=round(time.monotonic() - start_time, 2),
        human_examples=sampled_conversations(prepared.human, "human", config),
        simulated_examples={
            name: examples
            for name, sample in prepared.simulated.items()
            if (examples := sampled_conversations(sample, name, config))
        },
        quiz=share_of(
            [
                quiz_items(sample, compared_human, name, quiz_length, config.seed)
                for name, sample in compared.items()
            ],
            quiz_length,
        ),
    )


def measure_all(
    prepared: Prepared,
    compared: Mapping[str, Sample],
    human: Sample,
    draws: Mapping[str, Draws],
    config: EvalConfig,
    progress: Progress,
) -> tuple[dict[str, Floats], dict[str, list[FamilyValues]]]:
    """Measures human baselines and simulators, in several processes where the work is large.

    Returns:
        (baseline values by metric key, one `FamilyValues` per family by simulator).
    """
    if "embeddings" in config.metrics and not _no_embeddings(config):
        _embed([prepared.human, human, *compared.values()], config)
    pool, splits, names = prepared.human, prepared.splits(config), list(metric_families(config))
    floor_keys = [(name, chunk) for name in names for chunk in _chunks(name, splits)]
    measure_keys = [(simulator, name) for simulator in compared for name in names]
    tasks: list[Callable[[], Any]] = [
        partial(_family_baseline, name, config, pool, chunk) for name, chunk in floor_keys
    ]
    tasks += [
        partial(_family_values, name, config, compared[simulator], human, pool, draws[simulator])
        for simulator, name in measure_keys
    ]
    busy = prepared.n * len(splits) >= WORTH_PROCESSES
    results = in_order(tasks, config.processes or (cores() if busy else 1))
    pieces: dict[str, list[Floats]] = {}
    for name, _ in floor_keys:
        for key, values in next(results).items():
            pieces.setdefault(key, []).append(values)
        progress(f"human baseline: {name}")
    family_values: dict[str, list[FamilyValues]] = {simulator: [] for simulator in compared}
    for simulator, name in measure_keys:
        family_values[simulator].append(next(results))
        progress(f"{simulator}: {name}")
    return {key: np.concatenate(values) for key, values in pieces.items()}, family_values


def _embed(samples: Sequence[Sample], config: EvalConfig) -> None:
    """Computes the sentence embeddings of all samples once in this process; the samples carry them, so that no worker
    loads the model."""
    from eval.fidelity.metrics.texts.embedded import turn_means

    diversity: Any = metric_family("diversity", config)
    for sample in samples:
        turn_means(sample)
        if "diversity" in config.metrics:
            diversity.read(sample)


def _no_embeddings(config: EvalConfig) -> str | None:
    """Returns the reason why embeddings are not available; None where they are, or where the configuration
    names none."""
    if "embeddings" not in config.metrics:
        return None
    from eval.fidelity.metrics.texts.embedded import unavailable

    return unavailable()


def _family_baseline(
    name: Name, config: EvalConfig, pool: Sample, splits: Sequence[Split]
) -> dict[str, Floats]:
    return metric_family(name, config).floor(pool, splits)


def _family_values(
    name: Name, config: EvalConfig, simulated: Sample, human: Sample, pool: Sample, draws: Draws
) -> FamilyValues:
    family = metric_family(name, config)
    curves = family.curves(simulated, human, draws=draws) if isinstance(family, Curves) else ()
    return FamilyValues(family.measure(simulated, human, pool=pool, draws=draws), tuple(curves))


def judged(
    measured: Mapping[str, Measured],
    floors: Mapping[str, Floats],
    n: int,
    config: EvalConfig,
    draws: Draws | None = None,
) -> tuple[list[Figure], dict[str, str]]:
    """Returns (metrics with their verdicts, reason by key for the metrics that could not be measured)."""
    metrics: list[Figure] = []
    missing: dict[str, str] = {}
    no_model = _no_embeddings(config)
    for key, (_, spec) in specs(config).items():
        measurement, floor = measured.get(key), floors.get(key)
        reason = why_missing(measurement, floor)
        if reason or measurement is None or floor is None:
            missing[key] = f"{spec.label}: {no_model if no_model and 'embeddings' in key else reason}"
        else:
            metrics.append(judge(spec, measurement, floor, n, config, draws=draws))
    return together(metrics), missing


def _simulator(
    name: str,
    prepared: Prepared,
    simulated: Sample,
    human: Sample,
    floors: Mapping[str, Floats],
    families: Sequence[FamilyValues],
    draws: Draws,
    config: EvalConfig,
    guards: Guards | None,
) -> SimulatorReport:
    measured = {key: value for family in families for key, value in family.measured.items()}
    metrics, missing = judged(measured, floors, prepared.n, config, draws)
    if not any(metric.headline for metric in metrics):
        raise DataError(f"{name}: no metric of {', '.join(config.metrics)} could be measured")
    copies = copies_gate(simulated.conversations, prepared.human.conversations)
    gates = (*run_gates(simulated.conversations, human.conversations, prepared.turn_cap, guards), copies)
    if copies.verdict == "different":
        metrics = [without_equivalence(metric) for metric in metrics]
    nearest, farthest = nearest_and_farthest(simulated, human, prepared.human, config)
    return SimulatorReport(
        name=name,
        side=prepared.simulated_sides[name],
        guards=guards,
        people_longer=longer_share(prepared.human.conversations, prepared.simulated_sides[name].longest_turn),
        headline=headline(metrics, gates, floors),
        gates=gates,
        figures=tuple(metrics),
        telling=_telling(simulated, human, prepared.human, config),
        curves=tuple(curve for family in families for curve in family.curves),
        nearest=nearest,
        farthest=farthest,
        missing=missing,
    )


def _telling(simulated: Sample, human: Sample, pool: Sample, config: EvalConfig) -> Telling:
    from eval.fidelity.metrics.texts.classifier import telling_features, telling_ngrams

    simulated_ngrams, human_ngrams = (
        telling_ngrams(simulated, human, characters=config.text_characters)
        if "text" in config.metrics and config.examples
        else ([], [])
    )
    return Telling(
        simulated_ngrams=tuple(simulated_ngrams),
        human_ngrams=tuple(human_ngrams),
        features=tuple(telling_features(simulated, human, pool)),
    )


def _copy_notes(reports: Sequence[SimulatorReport]) -> list[str]:
    """Returns one note for each simulator that repeats human conversations."""
    notes = []
    for report in reports:
        copies = next(gate for gate in report.gates if gate.key == "near_copy")
        if copies.verdict == "different" and copies.simulated and copies.human:
            notes.append(
                f"{report.name}: {copies.simulated.value:.0%} of its conversations are near-copies of a "
                f"human one (of people "
                f"{copies.human.value:.0%}); it repeats them, so none of its metrics is called equivalent."
            )
    return notes


def _margin_note(config: EvalConfig) -> str:
    overrides = ", ".join(f"{key} {value:g}" for key, value in config.margins.items())
    return (
        "Equivalent means: the interval of the excess over the human baseline's median ends below δ, fixed beforehand "
        "in each metric's own unit (reasons: eval/fidelity/margins.py)"
        + (f", but for {overrides}." if overrides else ".")
    )
