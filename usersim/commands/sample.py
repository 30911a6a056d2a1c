"""`usersim sample`: the next turn of a simulated user."""

from __future__ import annotations

import argparse
import sys

from usersim.cli import emit_json
from usersim.commands.options import add_user_options, goal_from, persona_from, turns_from, user_from
from usersim.types import UserTurn
from usersim.users.background_loop import run
from usersim.users.protocols import as_profile, as_turns


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="usersim sample", description=__doc__)
    add_user_options(parser)
    parser.add_argument("--turns", metavar="FILE", help="JSON history; empty, or ending with the assistant")
    parser.add_argument("-n", type=int, default=1, help="number of alternative turns (default: 1)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--json-out", metavar="FILE")
    parser.add_argument("--dry-run", action="store_true", help="print the user's system message and stop")
    args = parser.parse_args(argv)
    profile = as_profile(goal_from(args.goal), persona_from(args.persona))
    turns = as_turns(turns_from(args.turns))
    if args.dry_run:
        from usersim.rendering.conditioning import describe

        sys.stdout.write(describe(profile) + "\n")
        return 0
    if args.n < 1:
        parser.error("-n must be at least 1")
    user_turns = run(user_from(args).sample(profile, turns, n=args.n, seed=args.seed))
    emit_json({"turns": [turn.model_dump() for turn in user_turns]}, stdout=args.json, path=args.json_out)
    if not args.json:
        sys.stdout.write("\n".join(map(_line, user_turns)) + "\n")
    return 0


def _line(turn: UserTurn) -> str:
    return f"{'(leaves)' if turn.ends else turn.text}   [P(end) {turn.end_probability:.2f}]"
