"""Command line of the package: `usersim eval COMMAND` or `python -m eval COMMAND`.

Only the module of the chosen command is imported.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from usersim.cli import run_main

COMMANDS = {
    "next-turn": (
        "eval.next_turn.command",
        "compare next turns of simulators with those of people at the same prefixes",
    ),
    "run": (
        "eval.fidelity.command",
        "compare simulated with human conversations, without an LLM judge",
    ),
    "selftest": (
        "eval.fidelity.selftest.command",
        "report which planted faults each conversation metric detects on your conversations",
    ),
    "next-turn-selftest": (
        "eval.next_turn.selftest_command",
        "report which planted users the next-turn metrics detect on your conversations",
    ),
    "choose-decoding": (
        "eval.next_turn.choose_decoding",
        "choose the sampling parameters at which a User LM is hardest to tell from people",
    ),
    "fit-discriminator": (
        "eval.next_turn.fit_discriminator",
        "what chooses the best of n drawn turns, fitted on train",
    ),
    "versions": (
        "eval.versions.command",
        "compare a User LM with its previous version on held-out people, against targets",
    ),
    "compare": ("eval.fidelity.comparison.command", "compare two simulators on the same goals, paired"),
    "model": (
        "eval.likelihood.command",
        "score a User LM on held-out people: likelihood, ends, goal, persona, role",
    ),
    "userlm": ("eval.papers.userlm.command", "compute the six metrics of the UserLM paper"),
    "usi": (
        "eval.papers.user_sim_index.command",
        "compute the User-Sim Index as published, with the behaviour it does not measure",
    ),
    "outcome": (
        "eval.ranking.command",
        "test if simulated users rank assistants as people do",
    ),
    "probe": (
        "eval.papers.interaction_probe.command",
        "test if a base model that plays the user reacts to the answer",
    ),
    "judge": ("eval.llm_judge.command", "compare blinded with an LLM judge, with its agreement with people"),
    "convert": ("eval.convert.command", "convert conversations of other tools to our format"),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="usersim eval", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    chosen_command = next((word for word in argv if word in COMMANDS), None)
    for name, (module, text) in COMMANDS.items():
        subparser = commands.add_parser(name, help=text)
        if name == chosen_command:
            importlib.import_module(module).add_arguments(subparser)
    args = parser.parse_args(argv)
    code: int = importlib.import_module(COMMANDS[args.command][0]).run(args)
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
