"""`usersim COMMAND …`: a thin table; only the command asked for is imported."""

from __future__ import annotations

import importlib
import os
import sys

from usersim.cli import complain, run_main
from usersim.extras import cure_for

COMMANDS = {
    "adapt": ("usersim.adapt.command", "your chat logs to your User LM, measured: usersim adapt CONFIG"),
    "prep": ("data_prep.__main__", "raw chat logs to Conversation records with goal and persona"),
    "data": (
        "data_prep.data_command",
        "data validate | goals | styles: of prepared conversations",
    ),
    "train": ("usersim.commands.train", "fine-tune a User LM: usersim train CONFIG [key=value…]"),
    "calibrate": ("usersim.commands.calibrate", "fit P(end) of a User LM on people's own ends"),
    "population": (
        "usersim.commands.population",
        "population fit | compare | sample: users like those of logs",
    ),
    "model": ("usersim.weights.default_model", "model build | path: materialise the default User LM"),
    "serve": ("serve.__main__", "the User LM behind FastAPI, generation by vLLM"),
    "sample": ("usersim.commands.sample", "one simulated user turn (or -n of them)"),
    "chat": ("usersim.commands.chat", "you play the assistant"),
    "simulate": (
        "usersim.commands.simulate",
        "whole conversations with an assistant, from a file of goals",
    ),
    "eval": (
        "eval.__main__",
        "eval run | selftest | compare | model | userlm | usi | outcome | probe | judge | …",
    ),
    "collab": (
        "collab_train.__main__",
        "collab mr | pairs | sft | dpo | online-dpo | grpo | rloo | bench CONFIG",
    ),
    "keys": ("usersim.commands.keys", "the keys of a command's config: usersim keys train"),
    "doctor": ("usersim.commands.doctor", "what is installed, which engine, what is wrong and its cure"),
}

EXTRAS = {
    "adapt": "train",
    "prep": "prep",
    "data": "prep",
    "train": "train",
    "calibrate": "train",
    "population": "prep",
    "model": "local",
    "serve": "serve",
    "sample": "local",
    "chat": "local",
    "simulate": "local",
    "eval": "eval",
    "collab": "collab",
    "keys": "collab",
}
"""Command → extra whose packages it needs."""


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()]
        sys.stdout.write("usage: usersim COMMAND …\n\n" + "\n".join(lines) + "\n")
        return 0 if argv else 2
    if argv[0] == "--version":
        from usersim import __version__

        sys.stdout.write(f"usersim {__version__}\n")
        return 0
    if argv[0] not in COMMANDS:
        complain(f"unknown command {argv[0]!r}; one of {', '.join(COMMANDS)}")
        return 2
    # No command downloads anything unasked: a hub name must be given as such, with the hub reachable.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        module = importlib.import_module(COMMANDS[argv[0]][0])
        return run_main(module.main, argv[1:])
    except ModuleNotFoundError as error:
        if (cure := cure_for(error.name, EXTRAS.get(argv[0]))) is None:
            raise
        complain(cure)
        return 2


if __name__ == "__main__":
    sys.exit(main())
