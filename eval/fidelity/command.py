"""`usersim eval run`: runs the battery over files and writes report.json, report.html and a table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from eval.fidelity.battery import run_battery, steps
from eval.fidelity.catalogue import specs
from eval.fidelity.confounds import confounds
from eval.fidelity.margins import MARGINS
from eval.fidelity.pages.report_page import write_report
from eval.fidelity.pages.terminal import report_table
from eval.fidelity.report_record import FileFacts, Report, in_words
from eval.fidelity.samples.matching import person_of
from eval.fidelity.samples.prepare import Prepared, prepare
from eval.fidelity.settings import EVERY, QUICK, EvalConfig
from usersim.cli import command_line, console, emit_json, load_conversations
from usersim.errors import ConfigError, DataError
from usersim.stats.estimates import largest_half
from usersim.storage.toml_config import load_config
from usersim.users.guards import Guards
from usersim.users.simulate import run_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--human",
        type=Path,
        required=True,
        help="held-out human conversations (JSONL) of at least 100 people",
    )
    parser.add_argument(
        "--simulated",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="simulated conversations (JSONL); repeat for more simulators",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for report.json and report.html")
    add_protocol_arguments(parser)
    parser.add_argument("--no-text", action="store_true", help="leave chat text out of the report")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan and stop; without --simulated: check that there are enough people",
    )
    parser.add_argument("--json", action="store_true", help="also print report.json on stdout")
    parser.add_argument("--json-out", metavar="FILE")


def add_protocol_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that every comparison with a human baseline takes."""
    parser.add_argument(
        "--config",
        type=Path,
        help="TOML file that overrides the defaults (`usersim keys eval run` lists them)",
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--metrics", metavar="NAME,NAME", help=f"metric families out of {', '.join(EVERY)} (default: all)"
    )
    parser.add_argument("--bootstrap", type=int, help="bootstrap resamples per interval (default: 1000)")
    parser.add_argument("--interval", choices=("percentile", "bca"), help="kind of bootstrap interval")
    parser.add_argument("--floor-repeats", type=int, help="human splits of the human baseline (default: 200)")
    parser.add_argument("--min-n", type=int, help="smallest number of conversations per side (default: 50)")
    parser.add_argument(
        "--max-n",
        type=int,
        help="largest number of conversations per side; more are subsampled (default: 1000)",
    )
    parser.add_argument(
        "--turn-cap", type=int, help="cut all conversations after N user turns (default: inferred)"
    )
    parser.add_argument(
        "--margin",
        action="append",
        default=[],
        metavar="METRIC=δ",
        help="equivalence margin δ in the metric's unit, in place of the fixed one; repeat for more",
    )
    parser.add_argument("--language", help="keep conversations in this language only, e.g. en")
    parser.add_argument(
        "--processes", type=int, help="parallel processes (default: one per core); results do not change"
    )
    parser.add_argument(
        "--same-goals", action="store_true", help="keep only human conversations whose goal was simulated"
    )
    parser.add_argument("--quick", action="store_true", help="use fewer resamples and splits")


def run(args: argparse.Namespace) -> int:
    config = config_of(args)
    if not args.simulated and args.dry_run:
        return _people_enough(args.human, config)
    if not args.simulated:
        raise ConfigError("nothing to compare: give --simulated NAME=FILE at least once")
    files = dict(map(name_and_file, args.simulated))
    if len(files) < len(args.simulated):
        raise ConfigError("--simulated: every simulator needs a name of its own")
    human = load_conversations(args.human)
    simulated = {name: load_conversations(path) for name, path in files.items()}
    if args.dry_run:
        _plan(prepare(human, simulated, config), config, args)
        return 0
    with progress_bar(steps(len(simulated), config)) as progress:
        guards = {name: guards_of(path) for name, path in files.items()}
        report = run_battery(human, simulated, config, guards=guards, progress=progress)
    report = _with_files(report, args.human, files)
    report = report.model_copy(update={"command": command_line()})
    write_report(report, args.out)
    console.print(report_table(report))
    for simulator in report.simulators:
        console.print(f"[bold]{escape(simulator.name)}[/]")
        for line in (*in_words(simulator.headline), *confounds(report, simulator)):
            console.print(f"- {line}", markup=False)
    for note in (*report.notes, *_missing(report)):
        console.print(f"- {note}", style="dim")
    console.print(
        f"{report.seconds:.0f} s · {args.out / 'report.html'} · {args.out / 'report.json'}", markup=False
    )
    emit_json(report.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def config_of(args: argparse.Namespace) -> EvalConfig:
    """Returns the configuration: options override `--quick`, which overrides the TOML file."""
    base = load_config(EvalConfig, args.config)
    names = (
        "seed",
        "bootstrap",
        "interval",
        "floor_repeats",
        "min_n",
        "max_n",
        "turn_cap",
        "language",
        "processes",
    )
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.metrics:
        options["metrics"] = [name.strip() for name in args.metrics.split(",") if name.strip()]
    if args.margin:
        options["margins"] = {**base.margins, **dict(map(_margin, args.margin))}
    flags: dict[str, object] = {"same_goals": True} if args.same_goals else {}
    if args.no_text:
        flags["examples"] = 0
    quick = QUICK if args.quick else {}
    config = EvalConfig.model_validate({**base.model_dump(), **quick, **options, **flags})
    if unknown := sorted(config.margins.keys() - MARGINS.keys()):
        raise ConfigError(f"margins: no metric {', '.join(unknown)}; there are {', '.join(MARGINS)}")
    return config


def _margin(text: str) -> tuple[str, float]:
    key, _, value = text.partition("=")
    try:
        return key, float(value)
    except ValueError:
        raise ConfigError(f"--margin {text!r}: write METRIC=δ, e.g. auc_text=0.05") from None


def _people_enough(path: Path, config: EvalConfig) -> int:
    """Prints how many people there are, before any simulation. Raises DataError where they are too few for any
    comparison."""
    human = load_conversations(path)
    half_size, people = largest_half([person_of(c) for c in human]), len({person_of(c) for c in human})
    if half_size < config.min_n:
        raise DataError(
            f"{path}: {people} people in {len(human)} conversations; a comparison needs {2 * config.min_n} "
            "(one half to compare with, one half for the human baseline)"
        )
    console.print(
        f"{people} people in {len(human)} conversations: up to {half_size} of each simulator are compared",
        markup=False,
    )
    return 0


def _reasons(counts: Mapping[str, int]) -> str:
    return "".join(f", {count} left out: {reason}" for reason, count in counts.items())


def name_and_file(text: str, option: str = "--simulated") -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise ConfigError(f"{option} {text!r}: write NAME=FILE")
    return name, Path(path)


def guards_of(path: Path) -> Guards | None:
    """Returns the guards of a simulated file, from the record that `usersim simulate` writes beside it. None where the
    record is missing, or where parts of the batch ran under different guards."""
    try:
        sessions = json.loads(run_file(path).read_text(encoding="utf-8"))["sessions"]
        guards = {Guards.model_validate(session["user"]["guards"]) for session in sessions}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return guards.pop() if len(guards) == 1 else None


def _missing(report: Report) -> list[str]:
    """Returns one line a simulator with the headline metrics that could not be measured."""
    labels = {key: spec.label for key, (_, spec) in specs(report.config).items() if spec.headline}
    lines = []
    for simulator in report.simulators:
        missing_labels = [labels[key] for key in simulator.missing if key in labels]
        if missing_labels:
            lines.append(
                f"{simulator.name}: not measured, see report.json for the reasons: {', '.join(missing_labels)}"
            )
    return lines


def _plan(prepared: Prepared, config: EvalConfig, args: argparse.Namespace) -> None:
    console.print(
        f"would compare {prepared.n} human with {prepared.n} conversations of each of "
        f"{', '.join(prepared.simulated)}; turn cap {prepared.turn_cap} ({prepared.turn_cap_from}); "
        f"{config.floor_repeats} human splits, {config.bootstrap} resamples, seed {config.seed}; "
        f"writes {args.out / 'report.json'} and {args.out / 'report.html'}",
        markup=False,
    )
    for side in (prepared.human_side, *prepared.simulated_sides.values()):
        console.print(
            f"  {side.name}: {side.kept} of {side.given} kept, {side.truncated} cut{_reasons(side.excluded)}",
            markup=False,
        )
    for note in prepared.notes:
        console.print(f"- {note}", style="dim")


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str], None]]:
    """Context of a progress bar on stderr; yields a function to call after each step."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading turns", total=total)
        yield lambda step: bar.update(task, description=step, advance=1)


def _with_files(report: Report, human: Path, files: dict[str, Path]) -> Report:
    simulators = tuple(
        simulator.model_copy(update={"file": FileFacts.of(files[simulator.name])})
        for simulator in report.simulators
    )
    return report.model_copy(update={"human_file": FileFacts.of(human), "simulators": simulators})
