"""The battery: human against simulated conversations, without any judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from eval.fidelity.catalogue import metric_of, metrics, specs
from eval.fidelity.examples import drawn, nearest_and_farthest, quiz_items, shape_of, share_of
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
"""Called with the name of every step when it is done; `steps` says how many there are."""

CHUNK = 50
"""Splits of a slow metric's floor in one piece of work. Fixed, so that the number of processes moves no number."""
WORTH_PROCESSES = 20_000
"""Splits times conversations below which starting processes costs more than it saves."""


def steps(simulators: int, config: EvalConfig) -> int:
    pieces = sum(len(_chunks(name, range(config.floor_repeats))) for name in metrics(config))
    return pieces + len(metrics(config)) * simulators


def _chunks(name: Name, splits: Sequence[S]) -> list[Sequence[S]]:
    size = CHUNK if name in SLOW else len(splits)
    return [splits[start : start + size] for start in range(0, len(splits), size)]


@dataclass(frozen=True)
class Found:
    """What one metric says of one simulator."""

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
    """Every simulator against the same human conversations, at the same n and beside the same floor.

    `human` should hold at least twice as many as each simulator: one half to compare with, one for the floor.
    `guards`: those that each simulator ran under, None where not known. Raises DataError for too few, for records of
    the wrong origin, and for sets that cannot be compared.
    """
    config, started = config or EvalConfig(), time.monotonic()
    prepared = prepare(human, simulated, config)
    compared = {name: prepared.compared(name, config.seed) for name in prepared.simulated}
    ours = prepared.compared_human(config.seed)
    draws = {name: draws_of(sample, ours, config) for name, sample in compared.items()}
    floors, found = measure_all(prepared, compared, ours, draws, config, progress or (lambda _: None))
    reports = [
        _simulator(
            name,
            prepared,
            compared[name],
            ours,
            floors,
            found[name],
            draws[name],
            config,
            (guards or {}).get(name),
        )
        for name in compared
    ]
    most = config.quiz if config.examples else 0
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
        seconds=round(time.monotonic() - started, 2),
        human_examples=drawn(prepared.human, "human", config),
        simulated_examples={
            name: shown
            for name, sample in prepared.simulated.items()
            if (shown := drawn(sample, name, config))
        },
        quiz=share_of([quiz_items(s, ours, name, most, config.seed) for name, s in compared.items()], most),
    )


def measure_all(
    prepared: Prepared,
    compared: Mapping[str, Sample],
    human: Sample,
    draws: Mapping[str, Draws],
    config: EvalConfig,
    progress: Progress,
) -> tuple[dict[str, Floats], dict[str, list[Found]]]:
    """(floors by figure, what every metric found of every simulator): the part worth several processes."""
    if "embeddings" in config.metrics and not _no_embeddings(config):
        _embed([prepared.human, human, *compared.values()], config)
    pool, splits, names = prepared.human, prepared.splits(config), list(metrics(config))
    floor_keys = [(name, chunk) for name in names for chunk in _chunks(name, splits)]
    measure_keys = [(simulator, name) for simulator in compared for name in names]
    tasks: list[Callable[[], Any]] = [
        partial(_floor, name, config, pool, chunk) for name, chunk in floor_keys
    ]
    tasks += [
        partial(_found, name, config, compared[simulator], human, pool, draws[simulator])
        for simulator, name in measure_keys
    ]
    busy = prepared.n * len(splits) >= WORTH_PROCESSES
    results = in_order(tasks, config.processes or (cores() if busy else 1))
    pieces: dict[str, list[Floats]] = {}
    for name, _ in floor_keys:
        for key, values in next(results).items():
            pieces.setdefault(key, []).append(values)
        progress(f"human floor: {name}")
    found: dict[str, list[Found]] = {simulator: [] for simulator in compared}
    for simulator, name in measure_keys:
        found[simulator].append(next(results))
        progress(f"{simulator}: {name}")
    return {key: np.concatenate(values) for key, values in pieces.items()}, found


def _embed(samples: Sequence[Sample], config: EvalConfig) -> None:
    """Vectors of all conversations, here and once: they travel with the samples, so no process loads the model."""
    from eval.fidelity.metrics.texts.embedded import turn_means

    diversity: Any = metric_of("diversity", config)
    for sample in samples:
        turn_means(sample)
        if "diversity" in config.metrics:
            diversity.read(sample)


def _no_embeddings(config: EvalConfig) -> str | None:
    """Why there are none, where they are asked for."""
    if "embeddings" not in config.metrics:
        return None
    from eval.fidelity.metrics.texts.embedded import unavailable

    return unavailable()


def _floor(name: Name, config: EvalConfig, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
    return metric_of(name, config).floor(pool, splits)


def _found(
    name: Name, config: EvalConfig, simulated: Sample, human: Sample, pool: Sample, draws: Draws
) -> Found:
    metric = metric_of(name, config)
    curves = metric.curves(simulated, human, draws=draws) if isinstance(metric, Curves) else ()
    return Found(metric.measure(simulated, human, pool=pool, draws=draws), tuple(curves))


def judged(
    measured: Mapping[str, Measured],
    floors: Mapping[str, Floats],
    n: int,
    config: EvalConfig,
    draws: Draws | None = None,
) -> tuple[list[Figure], dict[str, str]]:
    """(figures with their verdicts, reason by figure for those that could not be measured)."""
    figures: list[Figure] = []
    missing: dict[str, str] = {}
    no_model = _no_embeddings(config)
    for key, (_, spec) in specs(config).items():
        found, floor = measured.get(key), floors.get(key)
        reason = why_missing(found, floor)
        if reason or found is None or floor is None:
            missing[key] = f"{spec.label}: {no_model if no_model and 'embeddings' in key else reason}"
        else:
            figures.append(judge(spec, found, floor, n, config, draws=draws))
    return together(figures), missing


def _simulator(
    name: str,
    prepared: Prepared,
    simulated: Sample,
    human: Sample,
    floors: Mapping[str, Floats],
    found: Sequence[Found],
    draws: Draws,
    config: EvalConfig,
    guards: Guards | None,
) -> SimulatorReport:
    measured = {key: value for one in found for key, value in one.measured.items()}
    figures, missing = judged(measured, floors, prepared.n, config, draws)
    if not any(figure.headline for figure in figures):
        raise DataError(f"{name}: no figure of {', '.join(config.metrics)} could be measured")
    copies = copies_gate(simulated.conversations, prepared.human.conversations)
    gates = (*run_gates(simulated.conversations, human.conversations, prepared.turn_cap, guards), copies)
    if copies.verdict == "different":
        figures = [without_equivalence(figure) for figure in figures]
    nearest, farthest = nearest_and_farthest(simulated, human, prepared.human, config)
    return SimulatorReport(
        name=name,
        side=prepared.simulated_sides[name],
        guards=guards,
        people_longer=longer_share(prepared.human.conversations, prepared.simulated_sides[name].longest_turn),
        headline=headline(figures, gates, floors),
        gates=gates,
        figures=tuple(figures),
        telling=_telling(simulated, human, prepared.human, config),
        curves=tuple(curve for one in found for curve in one.curves),
        nearest=nearest,
        farthest=farthest,
        missing=missing,
    )


def _telling(simulated: Sample, human: Sample, pool: Sample, config: EvalConfig) -> Telling:
    from eval.fidelity.metrics.texts.classifier import telling_features, telling_ngrams

    theirs, ours = (
        telling_ngrams(simulated, human, characters=config.text_characters)
        if "text" in config.metrics and config.examples
        else ([], [])
    )
    return Telling(
        simulated_ngrams=tuple(theirs),
        human_ngrams=tuple(ours),
        features=tuple(telling_features(simulated, human, pool)),
    )


def _copy_notes(reports: Sequence[SimulatorReport]) -> list[str]:
    """A line for each simulator that repeats people."""
    found = []
    for report in reports:
        copies = next(gate for gate in report.gates if gate.key == "near_copy")
        if copies.verdict == "different" and copies.simulated and copies.human:
            found.append(
                f"{report.name}: {copies.simulated.value:.0%} of its conversations are near-copies of a "
                f"human one (of people "
                f"{copies.human.value:.0%}); it repeats them, so nothing of it is called equivalent."
            )
    return found


def _margin_note(config: EvalConfig) -> str:
    own = ", ".join(f"{key} {value:g}" for key, value in config.margins.items())
    return (
        "Equivalent means: the interval of the excess over the floor's median ends below δ, which was fixed beforehand "
        "in each figure's own unit (eval/fidelity/margins.py has the reasons)"
        + (f", but for {own}." if own else ".")
    )
