"""`usersim data validate FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data_prep.validate import validate
from usersim.cli import emit_json, run_main


def parser() -> argparse.ArgumentParser:
    shown = argparse.ArgumentParser(prog="usersim data")
    commands = shown.add_subparsers(dest="command", required=True)
    check = commands.add_parser("validate", help="check each line against the schema")
    check.add_argument("file", type=Path, metavar="FILE", help="JSON Lines of conversations, or .gz")
    check.add_argument("--json", action="store_true", help="one JSON document on stdout")
    check.add_argument("--json-out", metavar="FILE", help="write it there")
    return shown


def main(argv: list[str]) -> int:
    """0 when every line is a conversation, 2 when one is not."""
    args = parser().parse_args(argv)
    report = validate(args.file)
    emit_json(report, stdout=args.json, path=args.json_out)
    for problem in report["problems"]:
        sys.stderr.write(problem + "\n")
    left_out = report["bad"] - len(report["problems"])
    if left_out:
        sys.stderr.write(f"… and {left_out} more\n")
    if not args.json:
        sys.stdout.write(
            f"{args.file}: {report['conversations']:,} conversations with "
            f"{report['user_turns']:,} user turns, {report['bad']:,} bad lines\n"
        )
    return 0 if report["ok"] else 2


if __name__ == "__main__":
    sys.exit(run_main(main))
