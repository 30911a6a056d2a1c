"""`usersim eval run | model | selftest | compare`; `python -m eval` is the same."""

from __future__ import annotations

import argparse
import sys

from usersim.cli import run_main
from usersim.errors import ConfigError

LATER = {
    "selftest": "which planted faults each metric sees on your own conversations: comes with 0.3",
    "compare": "paired comparison of two runs: comes with 0.3",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="usersim eval", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="simulated against human conversations, without any judge")
    model_parser = commands.add_parser(
        "model", help="five tables on held-out people: likelihood, ends, goal, persona, role"
    )
    for name, text in LATER.items():
        commands.add_parser(name, help=text)
    from eval import run_command
    from eval.model import command as model_command

    run_command.add_arguments(run_parser)
    model_command.add_arguments(model_parser)
    args = parser.parse_args(argv)
    if args.command in LATER:
        raise ConfigError(f"eval {args.command}: {LATER[args.command]}")
    return run_command.run(args) if args.command == "run" else model_command.run(args)


if __name__ == "__main__":
    sys.exit(run_main(main))
