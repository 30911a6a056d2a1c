"""`usersim eval COMMAND`; `python -m eval` is the same. Only the command asked for is imported."""

from __future__ import annotations

import argparse
import importlib
import sys

from usersim.cli import run_main

COMMANDS = {
    "next-turn": ("eval.next_turn.command", "simulators' next turns beside people's, at the same prefixes"),
    "run": ("eval.fidelity.command", "simulated against human conversations, without any judge"),
    "selftest": (
        "eval.fidelity.selftest.command",
        "which planted faults each metric sees on your own conversations",
    ),
    "next-turn-selftest": (
        "eval.next_turn.selftest_command",
        "planted users against the next-turn metrics, on your own conversations",
    ),
    "choose-decoding": (
        "eval.next_turn.choose_decoding",
        "sampling parameters at which a User LM is least told from people, on dev",
    ),
    "fit-discriminator": (
        "eval.next_turn.fit_discriminator",
        "what chooses the best of n drawn turns, fitted on train",
    ),
    "versions": (
        "eval.versions.command",
        "a User LM beside the version before it, on held-out people, with aims",
    ),
    "compare": ("eval.fidelity.comparison.command", "two simulators on the same goals, paired"),
    "model": (
        "eval.likelihood.command",
        "five tables on held-out people: likelihood, ends, goal, persona, role",
    ),
    "userlm": ("eval.papers.userlm.command", "the six metrics of the UserLM paper"),
    "usi": (
        "eval.papers.user_sim_index.command",
        "the User-Sim Index as published, with what it leaves out beside it",
    ),
    "outcome": ("eval.ranking.command", "do simulated users rank assistants as people do?"),
    "probe": (
        "eval.papers.interaction_probe.command",
        "does a base model react to an answer when it plays the user?",
    ),
    "judge": ("eval.llm_judge.command", "an LLM as judge, blinded, with its agreement with people"),
    "convert": ("eval.convert.command", "finished conversations of other tools to ours"),
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="usersim eval", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asked = next((word for word in argv if word in COMMANDS), None)
    for name, (module, text) in COMMANDS.items():
        subparser = commands.add_parser(name, help=text)
        if name == asked:
            importlib.import_module(module).add_arguments(subparser)
    args = parser.parse_args(argv)
    code: int = importlib.import_module(COMMANDS[args.command][0]).run(args)
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
