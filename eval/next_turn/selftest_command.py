"""Command `usersim eval next-turn-selftest`: planted users against the next-turn metrics, on given conversations."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from usersim.cli import command_line, console, emit_json, load_conversations

if TYPE_CHECKING:
    from eval.next_turn.selftest.selftest_record import SelfTestConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--human",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="human conversations (JSONL); may be repeated",
    )
    parser.add_argument(
        "--train", type=Path, metavar="FILE", help="training conversations (JSONL), for replay and copying"
    )
    parser.add_argument(
        "--prompted", type=Path, metavar="FILE", help="turns drawn from a prompted base (JSONL)"
    )
    parser.add_argument(
        "--n", type=int, help="conversations, equally many per source (default: 200, with --quick 60)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: 0)")
    parser.add_argument(
        "--language", default="en", help="language of the user turns; `any` keeps all (default: en)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="60 conversations, with the users and metrics that need few"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for report.json, .md and .html")
    parser.add_argument("--json", action="store_true", help="print report.json on stdout")
    parser.add_argument("--json-out", metavar="FILE", help="write report.json to FILE as well")


def run(args: argparse.Namespace) -> int:
    from eval.next_turn.selftest.detection import self_test
    from eval.next_turn.selftest.selftest_page import headline, terminal, write_selftest
    from eval.next_turn.selftest.selftest_sample import sample
    from eval.next_turn.selftest_instruments import instruments

    config = config_of(args.quick, n=args.n, seed=args.seed, language=args.language)
    human = [c for path in args.human for c in load_conversations(path)]
    training = load_conversations(args.train) if args.train else []
    people_sample = sample(human, config, training=training, prompted=args.prompted)
    metrics = instruments(people_sample, config, journal=args.out / "scores.jsonl")
    with console.status("planted users") as status:
        report = self_test(people_sample, metrics, config, progress=status.update)
    report = report.model_copy(update={"command": command_line()})
    write_selftest(report, args.out)
    console.print(terminal(report))
    for line in (*headline(report), *report.notes):
        console.print(f"- {line}")
    console.print(f"{report.seconds:.0f} s · {args.out / 'report.html'} · {args.out / 'report.json'}")
    emit_json(report.model_dump(mode="json"), stdout=args.json, path=args.json_out)
    return 0


def config_of(quick: bool, *, n: int | None, seed: int, language: str) -> SelfTestConfig:
    """Returns the settings of the command line, which override those of --quick."""
    from eval.next_turn.selftest.detection import QUICK
    from eval.next_turn.selftest.selftest_record import SelfTestConfig

    overrides = {
        "seed": seed,
        "language": None if language == "any" else language,
        **({} if n is None else {"n": n}),
    }
    return SelfTestConfig.model_validate({**(QUICK.model_dump() if quick else {}), **overrides})
