"""`usersim simulate`: whole conversations between the simulated user and an assistant, from a file of goals."""

from __future__ import annotations

import argparse
import os

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from usersim.api import run
from usersim.cli import console, emit_json
from usersim.client import RemoteUser
from usersim.commands.options import assistant_from, user_from
from usersim.errors import BackendError, ConfigError
from usersim.prompted import PromptedUser
from usersim.sampling import User
from usersim.simulate import Journal, read_cases, simulate
from usersim.types import Conversation


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    cases = read_cases(args.goals)[: args.limit]
    settings = {
        key: getattr(args, key)
        for key in ("goals", "assistant", "url", "model", "prompted", "turns", "seed", "system", "limit")
    }
    if args.dry_run:
        emit_json({"conversations": len(cases), **settings}, stdout=True, path=args.json_out)
        return 0
    if len({case.id for case in cases}) < len(cases):
        raise ConfigError(f"{args.goals}: ids repeat; every case needs its own")
    journal = Journal(args.out, settings)
    missing = [case for case in cases if case.id not in journal.finished]
    if len(missing) < len(cases):
        console.print(f"[dim]resuming: {len(cases) - len(missing)} of {len(cases)} are there[/]")
    user = _user(args)
    columns = (TextColumn("conversations"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(missing))

        def done(made: Conversation | None) -> None:
            if made is not None:
                journal.add(made)
            progress.advance(task)

        outcome = run(
            simulate(
                user,
                assistant_from(args.assistant, max_tokens=args.assistant_tokens),
                missing,
                max_user_turns=args.turns,
                seed=args.seed,
                source=args.name or getattr(user, "name", "userlm"),
                system=args.system,
                concurrency=args.concurrency,
                done=done,
            )
        )
    if missing and not outcome.conversations and not journal.finished:
        raise BackendError(f"all {len(missing)} conversations failed; the first: {outcome.first_error}")
    count = journal.close([case.id for case in cases])
    summary = {"conversations": count, "failed": dict(outcome.failed), "first_error": outcome.first_error}
    emit_json({**summary, "out": args.out}, stdout=args.json, path=args.json_out)
    if not args.json:
        console.print(
            f"{count} conversations in {args.out}; failed and left out: {dict(outcome.failed) or 0}"
        )
    return 0


def _user(args: argparse.Namespace) -> User:
    if args.prompted:
        chat = assistant_from(args.prompted, max_tokens=96)
        return PromptedUser(chat)  # type: ignore[arg-type]
    user: User = user_from(args)
    if isinstance(user, RemoteUser) and args.name:
        user.name = args.name
    return user


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="usersim simulate", description=__doc__)
    parser.add_argument(
        "--goals", required=True, metavar="FILE", help="JSONL: {id?, goal, persona?} or Conversations"
    )
    parser.add_argument("--assistant", required=True, help="`local`, or an OpenAI-compatible URL[#model]")
    parser.add_argument("--out", required=True, metavar="FILE")
    parser.add_argument("--url", default=os.environ.get("USERSIM_URL"), help="a running `usersim serve`")
    parser.add_argument("--model", help="a User LM loaded in this process")
    parser.add_argument(
        "--prompted", metavar="local|URL", help="baseline: this chat model prompted to play the user"
    )
    parser.add_argument("--name", help="source recorded in the conversations")
    parser.add_argument("--turns", type=int, default=8, help="most user turns a conversation")
    parser.add_argument("--system", help="the assistant's system prompt")
    parser.add_argument("--assistant-tokens", type=int, default=160)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--json-out", metavar="FILE")
    return parser
