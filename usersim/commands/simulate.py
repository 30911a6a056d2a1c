"""`usersim simulate`: simulates conversations between a user and an assistant, from a file of goals.

The user is a User LM (`--url`, `--model`) or a prompted chat model (`--prompted`). The settings are written beside the
conversations (`OUT.run.json`). The same command resumes an incomplete batch.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from usersim import __version__
from usersim.api import run
from usersim.chat_models.endpoint_chat import EndpointChat
from usersim.chat_models.openai_chat import ChatSettings
from usersim.cli import command_line, console, emit_json, tell_goals
from usersim.commands.options import user_from
from usersim.errors import BackendError, ConfigError, DataError
from usersim.remote.async_client import RemoteUser
from usersim.storage.locks import locked
from usersim.types import Conversation
from usersim.users.dialogue import Assistant
from usersim.users.guards import Guards
from usersim.users.policies import POLICIES, with_policy
from usersim.users.prompted import BY_NAME, PromptedUser, prompt_hash
from usersim.users.protocols import User
from usersim.users.simulate import (
    BatchJournal,
    Case,
    SimulationResult,
    read_cases,
    repeated,
    run_file,
    simulate,
)
from usersim.users.userlm import UserLM
from usersim.weights.default_model import file_hash

SAMPLED = {"user_tokens": 192, "user_temperature": 1.0}
"""Sampling defaults of a prompted user, equal to those of a User LM (`usersim.users.protocols.Sampling`)."""
RESUME_KEYS = (
    *("turns", "seed", "system", "repeat", "policy", "name"),
    *("url", "model", "prompted", "user_tokens", "user_temperature", "assistant", "assistant_tokens"),
)


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    cases = _cases(args)
    settings = _settings(args)
    if args.dry_run:
        plan = {"conversations": len(cases), "most_user_turns": len(cases) * args.turns, **settings}
        emit_json(plan, stdout=True, path=args.json_out)
        return 0
    with locked(args.out):
        return _run(args, argv, cases, settings)


def _run(args: argparse.Namespace, argv: list[str], cases: list[Case], settings: dict[str, object]) -> int:
    journal = BatchJournal(args.out, settings)
    missing = [case for case in cases if case.id not in journal.finished]
    if len(missing) < len(cases):
        console.print(f"resuming: {len(cases) - len(missing)} of {len(cases)} are there", style="dim")
    outcome, session = SimulationResult(), None
    if missing:
        user, assistant, began = _user(args), _chat(args.assistant, args.assistant_tokens), time.monotonic()
        outcome = _simulate(args, user, assistant, missing, journal)
        session = _session(argv, user, assistant, outcome, time.monotonic() - began)
    if outcome.not_begun:
        raise BackendError(
            f"stopped after consecutive failures ({outcome.first_error}); {len(journal.finished)} of {len(cases)} "
            "conversations are kept: run the same command again to resume"
        )
    if not journal.finished:
        raise BackendError(f"all {len(missing)} conversations failed; the first: {outcome.first_error}")
    count = journal.close([case.id for case in cases], session)
    summary = {"conversations": count, "failed": dict(outcome.failed), "first_error": outcome.first_error}
    emit_json(
        {**summary, "out": args.out, "run": str(run_file(args.out))}, stdout=args.json, path=args.json_out
    )
    if not args.json:
        failed = dict(outcome.failed) or 0
        console.print(f"{count} conversations in {args.out}; failed and left out: {failed}")
        if outcome.failed:
            console.print(f"{outcome.first_error}; run the same command again to retry those", style="dim")
    return 0


def _cases(args: argparse.Namespace) -> list[Case]:
    whole = read_cases(args.goals)
    with_goal = [case for case in whole if case.profile.goal]
    tell_goals(args.goals, len(whole), with_goal=len(with_goal))
    if not with_goal:
        raise DataError(
            f"{args.goals}: no conversation has a goal for the user to pursue; `usersim data goals` writes goals, and "
            "`usersim prep … --goals FILE` joins them"
        )
    cases = repeated(with_goal[: args.limit], args.repeat, of=len(whole))
    if len({case.id for case in cases}) < len(cases):
        raise ConfigError(f"{args.goals}: ids repeat; every case needs its own")
    return cases


def _settings(args: argparse.Namespace) -> dict[str, object]:
    """Returns the settings that a resumed batch must share with the first one."""
    settings = {key: getattr(args, key) for key in RESUME_KEYS}
    settings["goals"] = Path(args.goals).name
    settings["goals_sha256"] = file_hash(Path(args.goals))
    if args.prompted:
        settings |= {"url": None, "prompt": args.prompt, "prompt_hash": prompt_hash(BY_NAME[args.prompt])}
    if args.no_guards:
        settings["guards"] = "off"
    return settings


def _simulate(
    args: argparse.Namespace, user: User, assistant: Assistant, missing: list[Case], journal: BatchJournal
) -> SimulationResult:
    columns = (
        TextColumn("conversations"),
        *(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
        TextColumn("{task.fields[failed]}", style="red", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(missing), failed="")
        failed = 0

        def done(conversation: Conversation | None) -> None:
            nonlocal failed
            if conversation is not None:
                journal.add(conversation)
            failed += conversation is None
            progress.update(task, advance=1, failed=f"{failed} failed" if failed else "")

        async def simulate_all() -> SimulationResult:
            try:
                return await simulate(
                    user,
                    assistant,
                    missing,
                    max_user_turns=args.turns,
                    seed=args.seed,
                    source=args.name or getattr(user, "name", "userlm"),
                    system=args.system,
                    concurrency=args.concurrency,
                    retries=args.retries,
                    done=done,
                )
            finally:
                await _close(user, assistant)

        return run(simulate_all())


async def _close(*speakers: Any) -> None:
    for speaker in speakers:
        await speaker.aclose()


def _user(args: argparse.Namespace) -> User:
    user = _speaker(args)
    return with_policy(user, args.policy, seed=args.seed) if args.policy else user


def _speaker(args: argparse.Namespace) -> User:
    if args.prompted:
        where = f"{args.prompted}#{args.model}" if args.model else args.prompted
        chat = _chat(where, args.user_tokens, args.user_temperature, option="--prompted")
        name = args.name or "-".join(filter(None, ("prompted", args.model)))
        return PromptedUser(chat, prompt=BY_NAME[args.prompt], name=name)
    if args.no_guards and args.url:
        raise ConfigError("--no-guards: a server has guards of its own; set them there, or use --model")
    user = user_from(args)
    if isinstance(user, UserLM) and args.no_guards:
        user.guards = Guards.off()
    if isinstance(user, RemoteUser) and args.name:
        user.name = args.name
    return user


def _chat(where: str, max_tokens: int, temperature: float = 0.7, *, option: str = "--assistant") -> Any:
    """Returns a chat model: `local`, or an endpoint (URL or URL#model) with counted replies and tokens."""
    url, _, model = where.partition("#")
    settings = ChatSettings(max_tokens=max_tokens, temperature=temperature)
    if url == "local":
        if model:
            raise ConfigError(f"{option} local has one model; give a URL to name another")
        from usersim.chat_models.local_chat import LocalChat
        from usersim.weights.default_model import build_base

        return LocalChat.from_pretrained(build_base(), settings=settings)
    if not url.startswith(("http://", "https://", "unix:")):
        raise ConfigError(f"{option} {where!r}: write `local`, or a URL (URL#model names the model)")
    settings = ChatSettings(max_tokens=max_tokens, temperature=temperature)
    return EndpointChat(url, model=model or None, api_key=os.environ.get("OPENAI_API_KEY"), settings=settings)


def _session(
    argv: list[str], user: User, assistant: Assistant, outcome: SimulationResult, seconds: float
) -> dict[str, object]:
    """Returns the record of one session: its results, and the engines' names of user and assistant."""
    return {
        "command": command_line(["simulate", *argv]),
        "version": __version__,
        "user": _participant(user),
        "assistant": _participant(assistant),
        "failed": dict(outcome.failed),
        "first_error": outcome.first_error,
        "retries": outcome.retries,
        "seconds": round(seconds, 1),
    }


def _participant(speaker: Any) -> dict[str, object]:
    inner = getattr(speaker, "user", speaker)  # of a policy
    chat = getattr(inner, "chat", inner)  # of a prompted user
    facts: dict[str, object] = {"kind": type(inner).__name__, "name": getattr(speaker, "name", None)}
    facts["model"] = getattr(chat, "model", None)
    if isinstance(chat, EndpointChat):
        facts |= {**chat.counts(), **chat.settings.model_dump()}
    if isinstance(inner, PromptedUser):
        facts["prompt_hash"] = prompt_hash(inner.prompt)
    if isinstance(inner, UserLM):
        facts |= {"guards": inner.guards.model_dump(), "sampling": inner.sampling.model_dump()}
    elif isinstance(inner, PromptedUser):
        facts["guards"] = Guards.off().model_dump()
    if speaker is not inner:
        facts["policy"] = speaker.policy.model_dump()
    return facts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="usersim simulate", description=__doc__)
    add = parser.add_argument
    add("--goals", required=True, metavar="FILE", help="JSONL: {id?, goal, persona?} or Conversations")
    add("--assistant", required=True, help="`local`, or an OpenAI-compatible URL[#model]")
    add("--out", required=True, metavar="FILE")
    add(
        "--url",
        default=os.environ.get("USERSIM_URL"),
        help="URL of a running `usersim serve` (default: $USERSIM_URL)",
    )
    add("--model", help="a User LM loaded in this process; with --prompted, the endpoint's model")
    add("--prompted", metavar="local|URL", help="baseline: this chat model prompted to play the user")
    add(
        "--prompt",
        choices=list(BY_NAME),
        default="plain",
        help="prompt of --prompted; careful: for large instruct models (default: plain)",
    )
    add(
        "--policy",
        metavar="NAME[:KEY=VALUE,…]",
        help=f"policy of an uncooperative user: {', '.join(POLICIES)}",
    )
    add(
        "--no-guards",
        action="store_true",
        help="accept a User LM's first attempt (with --model)",
    )
    add(
        "--user-tokens",
        type=int,
        default=SAMPLED["user_tokens"],
        help="maximum tokens of a prompted user's turn (default: 192)",
    )
    add(
        "--user-temperature",
        type=float,
        default=SAMPLED["user_temperature"],
        help="temperature of a prompted user (default: 1.0)",
    )
    add("--name", help="source recorded in the conversations")
    add("--turns", type=int, default=8, help="maximum user turns per conversation (default: 8)")
    add(
        "--repeat",
        type=int,
        default=1,
        metavar="K",
        help="conversations per goal, with different seeds (default: 1)",
    )
    add("--system", help="the assistant's system prompt")
    add("--assistant-tokens", type=int, default=160)
    add("--limit", type=int, help="simulate only the first N goals (default: all)")
    add("--seed", type=int, default=0)
    add("--concurrency", type=int, default=32, help="maximum conversations at a time (default: 32)")
    add("--retries", type=int, default=2, help="retries of a turn after an engine failure (default: 2)")
    add("--dry-run", action="store_true")
    add("--json", action="store_true")
    add("--json-out", metavar="FILE")
    return parser
