"""`usersim COMMAND …`: dispatcher that imports only the requested command."""

from __future__ import annotations

import importlib
import os
import sys

from usersim.cli import complain, run_main
from usersim.extras import cure_for

COMMANDS = {
    "adapt": ("usersim.adapt.command", "train and measure a User LM on your chat logs: usersim adapt CONFIG"),
    "prep": ("data_prep.__main__", "convert raw chat logs to Conversation records with goal and persona"),
    "data": (
        "data_prep.data_command",
        "data validate | goals | styles: work on prepared conversations",
    ),
    "train": ("usersim.commands.train", "fine-tune a User LM: usersim train CONFIG [key=value…]"),
    "calibrate": ("usersim.commands.calibrate", "calibrate P(end) of a User LM on where people ended"),
    "population": (
        "usersim.commands.population",
        "population fit | compare | sample: a population of users from logs",
    ),
    "model": (
        "usersim.weights.default_model",
        "model build | path: build the default User LM, or print its folder",
    ),
    "serve": ("serve.__main__", "serve a User LM over HTTP, with vLLM"),
    "sample": ("usersim.commands.sample", "sample a user turn (or -n alternatives)"),
    "chat": ("usersim.commands.chat", "chat with a simulated user, as the assistant"),
    "simulate": (
        "usersim.commands.simulate",
        "simulate conversations with an assistant, from a file of goals",
    ),
    "eval": (
        "eval.__main__",
        "eval run | selftest | compare | model | userlm | usi | outcome | probe | judge | …",
    ),
    "collab": (
        "collab_train.__main__",
        "collab mr | pairs | sft | dpo | online-dpo | grpo | rloo | bench CONFIG",
    ),
    "keys": ("usersim.commands.keys", "list the keys of a command's config: usersim keys train"),
    "doctor": ("usersim.commands.doctor", "check the installation, and list problems with their cures"),
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
"""Extra with the packages of each command."""


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
    # Commands download nothing by default: only an explicit hub name does.
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
