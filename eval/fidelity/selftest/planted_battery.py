"""The self-test: the battery on conversations with planted faults, made of the reader's own human file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.fidelity.battery import Progress, run_battery
from eval.fidelity.catalogue import metrics, specs
from eval.fidelity.report_record import SimulatorReport, floor_widths, versions
from eval.fidelity.samples.matching import person_of
from eval.fidelity.selftest.controls import COLLAPSED, as_simulated, collapsed, disguised, shuffled
from eval.fidelity.selftest.detection_record import Cell, Control, Expected, SelfTest
from eval.fidelity.selftest.detection_table import blind_spots
from eval.fidelity.settings import TRUSTED_N, EvalConfig
from usersim.errors import DataError
from usersim.stats.estimates import largest_half, person_order, rng_for
from usersim.types import Conversation

Planted = tuple[str, str, Expected, list[Conversation]]
"""Label, what was done, what is expected of it, the conversations."""


def self_test(
    human: Sequence[Conversation],
    *,
    base: Mapping[str, Sequence[Conversation]] | None = None,
    other_domain: Sequence[Conversation] = (),
    config: EvalConfig | None = None,
    n: int = 200,
    progress: Progress | None = None,
) -> SelfTest:
    """`human` people are parted: `n` of them become the controls, all others the reference and its floor, so at
    least three times `n` are needed; with fewer, n is lowered. `base` are finished conversations of a prompted
    model. Raises DataError where n falls below `min_n`."""
    config = (config or EvalConfig()).model_copy(update={"examples": 0, "quiz": 0})
    n = min([n, *(len(found) for found in (base or {}).values())])
    people, pool = parted(human, n, config)
    planted, left_out = _planted(people, base or {}, other_domain, config.seed)
    controls = {key: conversations for key, (_, _, _, conversations) in planted.items()}
    report = run_battery(pool, controls, config.model_copy(update={"max_n": len(people)}), progress=progress)
    found = [
        _control(simulator, planted[simulator.name], config, len(controls[simulator.name]))
        for simulator in report.simulators
    ]
    names = tuple(metrics(config))
    first = {f.key: f.floor for s in report.simulators for f in s.figures if f.headline}
    far = {
        f.key: f.floor.high if f.worse == "higher" else f.floor.low
        for s in report.simulators
        for f in s.figures
    }
    return SelfTest(
        n=report.n,
        pool=len(pool),
        turn_cap=report.turn_cap,
        metrics=names,
        controls=tuple(found),
        left_out=left_out,
        blind_spots=tuple(blind_spots(names, found)),
        floors={key: (floor.median, far[key]) for key, floor in first.items()},
        notes=report.notes,
        config=report.config,
        versions=versions(),
        seconds=report.seconds,
    )


def parted(
    human: Sequence[Conversation], n: int, config: EvalConfig
) -> tuple[list[Conversation], list[Conversation]]:
    """(about `n` conversations, all conversations of other people), at random."""
    known = [c for c in human if any(turn.role == "user" for turn in c.turns)]
    people = [person_of(c) for c in known]
    order = person_order(people, rng_for(config.seed, "self-test"))
    n = min(n, len(known) // 3)
    chosen = [known[i] for i in order[:n]]
    theirs = {person_of(c) for c in chosen}
    pool = [known[i] for i in order[n:] if people[i] not in theirs]
    half = largest_half([person_of(c) for c in pool])
    if min(n, half) < max(config.min_n, 1):
        least = 3 * max(config.min_n, TRUSTED_N)
        raise DataError(
            f"too few human conversations for a self-test: {len(known)} with a user turn give {min(n, half)} per "
            f"side; about {least} of different people are needed (a third becomes the controls)"
        )
    return chosen[:half], pool


def _planted(
    people: Sequence[Conversation],
    base: Mapping[str, Sequence[Conversation]],
    other_domain: Sequence[Conversation],
    seed: int,
) -> tuple[dict[str, Planted], dict[str, str]]:
    found: dict[str, Planted] = {
        "other_humans": ("other humans", "other people of the same file", "like human", list(people)),
        "mode_collapse": (
            "mode collapse",
            f"{COLLAPSED} of these people repeated",
            "different",
            collapsed(people, len(people), seed),
        ),
        "turn_shuffle": (
            "turn shuffle",
            "user turns swapped between these conversations, each at its place",
            "different",
            shuffled(people, seed),
        ),
    }
    for name, conversations in base.items():
        label = f"prompted base ({name})"
        found[f"base_{name}"] = (
            label,
            "finished conversations of a prompted model",
            "different",
            [*conversations],
        )
        found[f"disguised_{name}"] = (
            f"{label}, disguised",
            "the same in lower case, without final marks, a typo in every twelfth word",
            "different",
            disguised(conversations, seed),
        )
    if other_domain:
        found["other_domain"] = ("other domain", "humans of another file", "different", list(other_domain))
    left_out = {} if base else {"prompted base": "no --base NAME=FILE was given"}
    left_out |= {} if other_domain else {"other domain": "no --other-domain FILE was given"}
    return {
        key: (label, said, expected, as_simulated(rows, key))
        for key, (label, said, expected, rows) in found.items()
    }, left_out


def _control(simulator: SimulatorReport, planted: Planted, config: EvalConfig, given: int) -> Control:
    label, said, expected, _ = planted
    metric_of = {key: name for key, (name, _) in specs(config).items()}
    cells = {}
    for metric in metrics(config):
        own = [f for f in simulator.figures if f.headline and metric_of[f.key] == metric]
        cells[str(metric)] = Cell(
            figures=len(own),
            caught=tuple(f.label for f in own if f.verdict == "different"),
            worst=max(map(floor_widths, own)) if own else None,
        )
    return Control(
        key=simulator.name,
        label=label,
        planted=said,
        expected=expected,
        n=given,
        headline=simulator.headline,
        cells=cells,
    )
