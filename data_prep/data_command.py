"""`usersim data COMMAND …`: commands on prepared conversations. Only the chosen command is imported."""

from __future__ import annotations

import importlib
import sys

from usersim.cli import complain, run_main

COMMANDS = {
    "validate": ("data_prep.validate.command", "FILE: check conversations against the schema"),
    "goals": ("data_prep.goals.command", "FILE… --out GOALS.jsonl: write the hidden goals"),
    "styles": (
        "data_prep.personas.styles_command",
        "FILE: distribution of writing styles, and the bins that personas use",
    ),
}


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:9} {text}" for name, (_, text) in COMMANDS.items()]
        sys.stdout.write("usage: usersim data COMMAND …\n\n" + "\n".join(lines) + "\n")
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        complain(f"data: unknown command {argv[0]!r}; one of {', '.join(COMMANDS)}")
        return 2
    module = importlib.import_module(COMMANDS[argv[0]][0])
    return int(module.main(argv[1:]))


if __name__ == "__main__":
    sys.exit(run_main(main))
