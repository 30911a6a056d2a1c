"""`usersim chat`: interactive chat where you are the assistant and the User LM is the user."""

from __future__ import annotations

import argparse
import sys

from usersim.api import run
from usersim.cli import console
from usersim.commands.options import add_user_options, goal_from, persona_from, user_from
from usersim.types import Turn
from usersim.users.protocols import as_profile


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="usersim chat", description=__doc__)
    add_user_options(parser)
    args = parser.parse_args(argv)
    profile = as_profile(goal_from(args.goal), persona_from(args.persona))
    user = user_from(args)
    console.print("You are the assistant. An empty line or Ctrl-D ends it.", style="dim")
    turns: list[Turn] = []
    while True:
        user_turn = run(user(profile, turns, seed=args.seed + len(turns)))
        if user_turn.ends:
            console.print(f"(the user leaves; P(end) {user_turn.end_probability:.2f})", style="dim")
            return 0
        sys.stdout.write(f"user: {user_turn.text}\n")
        sys.stdout.flush()
        console.print(f"P(end) {user_turn.end_probability:.2f}", style="dim")
        turns.append(Turn(role="user", text=user_turn.text))
        reply = _reply()
        if not reply:
            return 0
        turns.append(Turn(role="assistant", text=reply))


def _reply() -> str:
    try:
        return input("you:  ").strip()
    except EOFError:
        return ""
