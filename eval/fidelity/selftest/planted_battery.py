"""The self-test: the battery on conversations with planted faults, made from one's own human file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.fidelity.battery import Progress, run_battery
from eval.fidelity.catalogue import metric_families, specs
from eval.fidelity.report_record import SimulatorReport, floor_widths, versions
from eval.fidelity.samples.matching import person_of
from eval.fidelity.selftest.controls import COLLAPSED, as_simulated, collapsed, disguised, shuffled
from eval.fidelity.selftest.detection_record import Control, DetectionCell, Expected, SelfTest
from eval.fidelity.selftest.detection_table import blind_spots
from eval.fidelity.settings import TRUSTED_N, EvalConfig
from usersim.errors import DataError
from usersim.stats.estimates import largest_half, person_order, rng_for
from usersim.types import Conversation

PlantedControl = tuple[str, str, Expected, list[Conversation]]
"""Label, description of the fault, expected verdict, conversations."""


def self_test(
    human: Sequence[Conversation],
    *,
    base: Mapping[str, Sequence[Conversation]] | None = None,
    other_domain: Sequence[Conversation] = (),
    config: EvalConfig | None = None,
    n: int = 200,
    progress: Progress | None = None,
) -> SelfTest:
    """Runs the battery on controls with planted faults.

    The people of `human` are split: about `n` conversations become the controls, all others the reference and its
    human baseline. At least 3·`n` are needed; with fewer, n is lowered. `base` holds finished conversations of
    prompted models by name. Raises DataError where n falls below `min_n`.
    """
    config = (config or EvalConfig()).model_copy(update={"examples": 0, "quiz": 0})
    n = min([n, *(len(control_records) for control_records in (base or {}).values())])
    people, pool = split_people(human, n, config)
    planted, left_out = _planted(people, base or {}, other_domain, config.seed)
    controls = {key: conversations for key, (_, _, _, conversations) in planted.items()}
    report = run_battery(pool, controls, config.model_copy(update={"max_n": len(people)}), progress=progress)
    control_records = [
        _control(simulator, planted[simulator.name], config, len(controls[simulator.name]))
        for simulator in report.simulators
    ]
    families = tuple(metric_families(config))
    baselines = {f.key: f.floor for s in report.simulators for f in s.figures if f.headline}
    far_ends = {
        f.key: f.floor.high if f.worse == "higher" else f.floor.low
        for s in report.simulators
        for f in s.figures
    }
    return SelfTest(
        n=report.n,
        pool=len(pool),
        turn_cap=report.turn_cap,
        metrics=families,
        controls=tuple(control_records),
        left_out=left_out,
        blind_spots=tuple(blind_spots(families, control_records)),
        floors={key: (floor.median, far_ends[key]) for key, floor in baselines.items()},
        notes=report.notes,
        config=report.config,
        versions=versions(),
        seconds=report.seconds,
    )


def split_people(
    human: Sequence[Conversation], n: int, config: EvalConfig
) -> tuple[list[Conversation], list[Conversation]]:
    """Returns (about `n` conversations, all conversations of other people), at random."""
    with_user_turn = [c for c in human if any(turn.role == "user" for turn in c.turns)]
    people = [person_of(c) for c in with_user_turn]
    order = person_order(people, rng_for(config.seed, "self-test"))
    n = min(n, len(with_user_turn) // 3)
    control_conversations = [with_user_turn[i] for i in order[:n]]
    control_people = {person_of(c) for c in control_conversations}
    pool = [with_user_turn[i] for i in order[n:] if people[i] not in control_people]
    half = largest_half([person_of(c) for c in pool])
    if min(n, half) < max(config.min_n, 1):
        needed = 3 * max(config.min_n, TRUSTED_N)
        raise DataError(
            f"too few human conversations for a self-test: {len(with_user_turn)} with a user turn give "
            f"{min(n, half)} per side; about {needed} of different people are needed (a third becomes the controls)"
        )
    return control_conversations[:half], pool


def _planted(
    people: Sequence[Conversation],
    base: Mapping[str, Sequence[Conversation]],
    other_domain: Sequence[Conversation],
    seed: int,
) -> tuple[dict[str, PlantedControl], dict[str, str]]:
    planted: dict[str, PlantedControl] = {
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
        planted[f"base_{name}"] = (
            label,
            "finished conversations of a prompted model",
            "different",
            [*conversations],
        )
        planted[f"disguised_{name}"] = (
            f"{label}, disguised",
            "the same in lower case, without final marks, a typo in every twelfth word",
            "different",
            disguised(conversations, seed),
        )
    if other_domain:
        planted["other_domain"] = ("other domain", "humans of another file", "different", list(other_domain))
    left_out = {} if base else {"prompted base": "no --base NAME=FILE was given"}
    left_out |= {} if other_domain else {"other domain": "no --other-domain FILE was given"}
    return {
        key: (label, description, expected, as_simulated(rows, key))
        for key, (label, description, expected, rows) in planted.items()
    }, left_out


def _control(simulator: SimulatorReport, planted: PlantedControl, config: EvalConfig, size: int) -> Control:
    label, description, expected, _ = planted
    family_of = {key: name for key, (name, _) in specs(config).items()}
    cells = {}
    for family in metric_families(config):
        metrics = [f for f in simulator.figures if f.headline and family_of[f.key] == family]
        cells[str(family)] = DetectionCell(
            figures=len(metrics),
            caught=tuple(f.label for f in metrics if f.verdict == "different"),
            worst=max(map(floor_widths, metrics)) if metrics else None,
        )
    return Control(
        key=simulator.name,
        label=label,
        planted=description,
        expected=expected,
        n=size,
        headline=simulator.headline,
        cells=cells,
    )
