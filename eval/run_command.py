"""`usersim eval run`: the battery over files, to report.json, report.html and a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from eval.battery import run_battery, steps
from eval.estimates import Figure
from eval.page import write_report
from eval.prepare import Prepared, prepare
from eval.report import FileFacts, Report
from eval.settings import QUICK, EvalConfig
from usersim.cli import console, emit_json
from usersim.config import load_config
from usersim.errors import ConfigError, DataError
from usersim.model import file_hash
from usersim.records import read_conversations
from usersim.types import Conversation

MARK = {"different": " ≠", "inconclusive": "", "too few": " ?", "not applicable": ""}
STYLE = {"different": "red", "inconclusive": "dim", "too few": "yellow", "not applicable": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--human", type=Path, required=True, help="held-out human conversations (JSONL)")
    parser.add_argument(
        "--simulated", action="append", default=[], metavar="NAME=FILE", help="one simulator; repeat for more"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for report.json and report.html")
    parser.add_argument("--config", type=Path, help="TOML with departures from eval.settings.EvalConfig")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--bootstrap", type=int, help="resamples behind every interval (1000)")
    parser.add_argument("--floor-repeats", type=int, help="human splits behind the floor (200)")
    parser.add_argument("--min-n", type=int, help="fewer per side are refused (50)")
    parser.add_argument("--max-n", type=int, help="more per side are subsampled (1000)")
    parser.add_argument("--turn-cap", type=int, help="cut all conversations here (inferred)")
    parser.add_argument(
        "--same-goals", action="store_true", help="only human conversations with a simulated goal"
    )
    parser.add_argument("--no-text", action="store_true", help="no chat text in the report")
    parser.add_argument("--quick", action="store_true", help="fewer resamples and splits")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--json", action="store_true", help="report.json on stdout as well")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    config = _config(args)
    if not args.simulated:
        raise ConfigError("nothing to compare: give --simulated NAME=FILE at least once")
    files = dict(map(_name_and_file, args.simulated))
    if len(files) < len(args.simulated):
        raise ConfigError("--simulated: every simulator needs a name of its own")
    human = _read(args.human)
    simulated = {name: _read(path) for name, path in files.items()}
    if args.dry_run:
        _plan(prepare(human, simulated, config), config, args)
        return 0
    report = _with_progress(human, simulated, config)
    report = _with_files(report, args.human, files)
    write_report(report, args.out)
    console.print(report_table(report))
    for note in report.notes:
        console.print(f"[dim]- {note}[/]")
    console.print(f"{report.seconds:.0f} s · {args.out / 'report.html'} · {args.out / 'report.json'}")
    emit_json(report.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def _config(args: argparse.Namespace) -> EvalConfig:
    base = load_config(EvalConfig, args.config)
    names = ("seed", "bootstrap", "floor_repeats", "min_n", "max_n", "turn_cap")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    flags: dict[str, object] = {"same_goals": True} if args.same_goals else {}
    if args.no_text:
        flags["examples"] = 0
    quick = QUICK if args.quick else {}
    return EvalConfig.model_validate({**base.model_dump(), **quick, **given, **flags})


def _name_and_file(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise ConfigError(f"--simulated {text!r}: write NAME=FILE")
    return name, Path(path)


def _read(path: Path) -> list[Conversation]:
    conversations = read_conversations(path)
    if not conversations:
        raise DataError(f"{path}: no conversations")
    return conversations


def _plan(prepared: Prepared, config: EvalConfig, args: argparse.Namespace) -> None:
    console.print(
        f"would compare {prepared.n} human with {prepared.n} conversations of each of "
        f"{', '.join(prepared.simulated)}; turn cap {prepared.turn_cap} ({prepared.turn_cap_from}); "
        f"{config.floor_repeats} human splits, {config.bootstrap} resamples, seed {config.seed}; "
        f"writes {args.out / 'report.json'} and {args.out / 'report.html'}"
    )
    for side in (prepared.human_side, *prepared.simulated_sides.values()):
        console.print(
            f"  {side.name}: {side.kept} of {side.given} kept, {side.truncated} cut {side.excluded or ''}"
        )
    for note in prepared.notes:
        console.print(f"[dim]- {note}[/]")


def _with_progress(
    human: list[Conversation], simulated: dict[str, list[Conversation]], config: EvalConfig
) -> Report:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading turns", total=steps(len(simulated), config) + 1)

        def progress(step: str) -> None:
            bar.update(task, description=step, advance=1)

        return run_battery(human, simulated, config, progress=progress)


def _with_files(report: Report, human: Path, files: dict[str, Path]) -> Report:
    simulators = tuple(
        simulator.model_copy(update={"file": _facts(files[simulator.name])})
        for simulator in report.simulators
    )
    return report.model_copy(update={"human_file": _facts(human), "simulators": simulators})


def _facts(path: Path) -> FileFacts:
    return FileFacts(path=str(path), sha256=file_hash(path))


def _cell(figure: Figure) -> str:
    found = figure.value
    text = f"{found.value:.2f} \\[{found.low:.2f}, {found.high:.2f}]{MARK[figure.verdict]}"
    return f"[{STYLE[figure.verdict]}]{text}[/]"


def report_table(report: Report) -> Table:
    table = Table(
        title=f"{report.n} conversations per side",
        caption="≠ different from human at this n; ? too few to say; unmarked: inconclusive",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("figure")
    table.add_column("human floor", justify="right")
    for simulator in report.simulators:
        table.add_column(simulator.name, justify="right")
    for row, figure in enumerate(report.simulators[0].figures):
        if figure.headline:
            cells = [simulator.figures[row] for simulator in report.simulators]
            table.add_row(
                figure.label,
                f"{figure.floor.median:.2f} [{figure.floor.low:.2f}, {figure.floor.high:.2f}]",
                *map(_cell, cells),
            )
    table.add_section()
    for row, gate in enumerate(report.simulators[0].gates):
        results = [simulator.gates[row] for simulator in report.simulators]
        table.add_row(
            gate.label,
            f"{gate.human.value:.1%}" if gate.human else "-",
            *(
                f"[{STYLE[g.verdict]}]{f'{g.simulated.value:.1%}' if g.simulated else '-'}{MARK[g.verdict]}[/]"
                for g in results
            ),
        )
    table.add_section()
    table.add_row(
        "overall",
        "",
        *(
            "[red]different[/]" if s.headline.different else "[dim]no difference found[/]"
            for s in report.simulators
        ),
    )
    table.add_row(
        "figures inside the floor",
        "",
        *(f"[bold]{s.headline.inside_floor} of {s.headline.figures}[/]" for s in report.simulators),
    )
    return table
