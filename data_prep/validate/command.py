"""`usersim data validate FILE…` command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.validate.checks import validate
from usersim.cli import emit_json


def main(argv: list[str]) -> int:
    """Returns 0 when every line is valid and nothing leaks from one file into another, else 2."""
    parser = argparse.ArgumentParser(
        prog="usersim data validate",
        description="Checks each line against the schema, and that nothing leaks from one file into another.",
    )
    add = parser.add_argument
    add(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="JSON Lines of conversations, or .gz; as train dev test",
    )
    add("--json", action="store_true", help="print one JSON document on stdout")
    add("--json-out", metavar="FILE", help="write the same JSON to FILE")
    args = parser.parse_args(argv)
    report = validate(*args.files)
    emit_json(report, stdout=args.json, path=args.json_out)
    crossing = sum(report["crossing"].values())
    for issues, count in ((report["problems"], report["bad"]), (report["crossings"], crossing)):
        sys.stderr.writelines(problem + "\n" for problem in issues)
        if count > len(issues):
            sys.stderr.write(f"… and {count - len(issues):,} more\n")
    if not args.json:
        for file in report["files"]:
            sys.stdout.write(
                f"{file['file']}: {file['conversations']:,} conversations, {file['bad']:,} bad lines\n"
            )
        if report["crossing"]:
            crossings = ", ".join(f"{count:,} {name}s" for name, count in report["crossing"].items())
            sys.stdout.write(f"in more than one file: {crossings}\n")
    return 0 if report["ok"] else 2
