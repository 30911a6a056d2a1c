"""`usersim eval selftest`: writes a table of detected faults, metric family by control, from one's own human
conversations."""

from __future__ import annotations

import argparse
from pathlib import Path

from eval.fidelity.command import (
    add_protocol_arguments,
    config_of,
    name_and_file,
    progress_bar,
)
from eval.fidelity.report_record import FileFacts
from eval.fidelity.selftest.detection_table import terminal, write_selftest
from usersim.cli import command_line, console, emit_json, load_conversations
from usersim.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--human", type=Path, required=True, help="human conversations (JSONL), 600 for n = 200"
    )
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="finished conversations of a prompted model; repeat for more",
    )
    parser.add_argument(
        "--other-domain", type=Path, metavar="FILE", help="human conversations of another kind"
    )
    parser.add_argument("--n", type=int, default=200, help="conversations per side (default: 200)")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory for report.json, report.md and report.html"
    )
    add_protocol_arguments(parser)
    parser.add_argument("--no-text", action="store_true", help="no effect: the report never holds chat text")
    parser.add_argument("--json", action="store_true", help="also print report.json on stdout")
    parser.add_argument("--json-out", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    from eval.fidelity.battery import steps
    from eval.fidelity.selftest.planted_battery import self_test

    config = config_of(args)
    files = dict(name_and_file(text, "--base") for text in args.base)
    if len(files) < len(args.base):
        raise ConfigError("--base: every model needs a name of its own")
    human = load_conversations(args.human)
    base = {name: load_conversations(path) for name, path in files.items()}
    other = load_conversations(args.other_domain) if args.other_domain else []
    controls = 3 + 2 * len(base) + bool(other)
    with progress_bar(steps(controls, config)) as progress:
        report = self_test(human, base=base, other_domain=other, config=config, n=args.n, progress=progress)
    files_by_name = {**files, **({"other domain": args.other_domain} if args.other_domain else {})}
    report = report.model_copy(
        update={
            "human_file": FileFacts.of(args.human),
            "other_files": {name: FileFacts.of(path) for name, path in files_by_name.items()},
            "command": command_line(),
        }
    )
    write_selftest(report, args.out)
    console.print(terminal(report))
    for spot in report.blind_spots:
        console.print(f"- {spot}")
    console.print(
        f"{report.seconds:.0f} s · {args.out / 'report.html'} · {args.out / 'report.json'}", markup=False
    )
    emit_json(report.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0
