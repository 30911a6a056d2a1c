"""`usersim eval compare`: compares two simulators on the same goals, paired; or two finished reports."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from eval.fidelity.battery import steps
from eval.fidelity.command import add_protocol_arguments, config_of, progress_bar
from eval.fidelity.comparison.comparison_page import headline, protocol_line, verdict, write_comparison
from eval.fidelity.comparison.comparison_record import SimulatorComparison
from eval.fidelity.comparison.finished_reports import compare_reports, read_report
from eval.fidelity.comparison.paired import SimulatorFile, compare_paired
from eval.fidelity.pages.plots import p_value
from eval.fidelity.report_record import FileFacts
from eval.fidelity.settings import EvalConfig
from usersim.cli import command_line, console, emit_json, load_conversations, readable
from usersim.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sides",
        nargs=2,
        metavar="[NAME=]PATH",
        help="with --human: two JSONL files of simulated conversations; without: two folders of `usersim eval run` "
        "(NAME selects a simulator of the report)",
    )
    parser.add_argument("--human", type=Path, help="held-out human conversations (JSONL)")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory for compare.json, compare.md and compare.html"
    )
    add_protocol_arguments(parser)
    parser.add_argument("--json", action="store_true", help="also print compare.json on stdout")
    parser.add_argument("--json-out", metavar="FILE")
    parser.set_defaults(no_text=True)


def run(args: argparse.Namespace) -> int:
    comparison = _from_files(args) if args.human else _from_runs(args)
    comparison = comparison.model_copy(update={"command": command_line()})
    page = write_comparison(comparison, args.out)
    console.print(comparison_table(comparison))
    console.print(headline(comparison), protocol_line(comparison), markup=False)
    for note in (*comparison.notes, *comparison.missing.values()):
        console.print(f"- {note}", style="dim")
    console.print(f"{comparison.seconds:.0f} s · {page}")
    emit_json(comparison.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def _from_files(args: argparse.Namespace) -> SimulatorComparison:
    (name, path), (other, other_path) = (_name_and_path(side) for side in args.sides)
    name, other = name or readable(path.stem), other or readable(other_path.stem)
    if name == other:
        raise ConfigError(f"both simulators are called {name}: write NAME=FILE")
    config, human = config_of(args), load_conversations(args.human)
    first = SimulatorFile(name, load_conversations(path), FileFacts.of(path))
    second = SimulatorFile(other, load_conversations(other_path), FileFacts.of(other_path))
    with progress_bar(steps(2, config)) as progress:
        return compare_paired(human, FileFacts.of(args.human), first, second, config, progress=progress)


def _from_runs(args: argparse.Namespace) -> SimulatorComparison:
    if config_of(args) != EvalConfig(examples=0):
        raise ConfigError(
            "finished reports have fixed settings; options of the comparison need --human and two JSONL files"
        )
    (name, path), (other, other_path) = (_name_and_path(side) for side in args.sides)
    for folder in (path, other_path):
        if folder.is_file():
            raise ConfigError(f"{folder} is a file: add --human FILE to compare two files of conversations")
    return compare_reports(read_report(path, name), read_report(other_path, other))


def _name_and_path(text: str) -> tuple[str | None, Path]:
    """Parses `NAME=PATH` or a path alone; an existing path is used as it is, even with an = in it."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, Path(text)
    if not name or not path:
        raise ConfigError(f"{text!r}: write NAME=PATH")
    return name, Path(path)


def comparison_table(comparison: SimulatorComparison) -> Table:
    table = Table(caption="difference: positive, the second is closer to human", caption_justify="left")
    table.add_column("metric")
    for heading in (comparison.first.name, comparison.second.name, "difference", "p (Holm)", "closer"):
        table.add_column(escape(heading), justify="right")
    for metric in comparison.figures:
        if metric.headline:
            gap = metric.gap
            style = "bold" if metric.winner in ("first", "second") else "dim"
            table.add_row(
                metric.label,
                f"{metric.first.value.value:.2f}",
                f"{metric.second.value.value:.2f}",
                f"{gap.value:.2f} \\[{gap.low:.2f}, {gap.high:.2f}]",
                p_value(metric.p_holm),
                escape(verdict(comparison, metric.winner)),
                style=style,
            )
    return table
