"""Conversations of simulated users with the planted assistants: on disk, resumable, side by side."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from usersim.api import connect, load, run
from usersim.chat_models.endpoint_chat import EndpointChat
from usersim.chat_models.openai_chat import ChatSettings
from usersim.cli import tell_goals
from usersim.commands.options import assistant_from
from usersim.errors import BackendError, ConfigError, DataError
from usersim.types import Conversation, Turn, UserProfile, UserTurn
from usersim.users.dialogue import Assistant
from usersim.users.prompted import BY_NAME, PromptedUser, prompt_hash
from usersim.users.protocols import User
from usersim.users.simulate import BatchJournal, Case, read_cases, simulate
from usersim.weights.default_model import file_hash

REFERENCE = "reference"
PROMPTED_TOKENS, PROMPTED_TEMPERATURE = 192, 1.0
"""As a User LM samples."""
Played = dict[str, dict[str, list[Conversation]]]
"""By user, then by assistant."""


class FrankUser:
    """Says the whole goal at once and leaves: where even this user's scores do not show the planted order, the score or
    the base model is to blame and not the simulator. It listens to nobody, so it is its own null."""

    name = REFERENCE

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        goal, ends = profile.goal, any(turn.role == "user" for turn in turns)
        wishes = [f"I want to {goal.summary}", *(facet.text for facet in goal.facets)] if goal else ["Hello"]
        return UserTurn(
            text="" if ends else "".join(f"{wish.rstrip('. ')}. " for wish in wishes).strip(),
            ends=ends,
            end_probability=float(ends),
            finish="end" if ends else "stop",
            logprob=0.0,
            tokens=0,
            seed=seed,
        )


class Replay:
    """Null user: what a user said to one assistant at this goal, said again whatever the assistant at hand answers."""

    def __init__(self, name: str, scripts: Mapping[str, Sequence[str]]) -> None:
        self.name, self.scripts = name, scripts

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        script = self.scripts.get(profile.model_dump_json())
        if script is None:
            raise DataError(f"{self.name}: no conversation at this goal to replay")
        spoken = sum(turn.role == "user" for turn in turns)
        ends = spoken >= len(script)
        return UserTurn(
            text="" if ends else script[spoken],
            ends=ends,
            end_probability=float(ends),
            finish="end" if ends else "stop",
            logprob=0.0,
            tokens=0,
            seed=seed,
        )


def null_users(played: Played) -> dict[str, tuple[User, dict[str, object]]]:
    """A null user for every user that listens, in the form of `users_from`.

    The script at a goal is what the user said there to one of the assistants, which the goal's id picks: so it is
    the user's own words and lengths, and the assistant at hand has no part in them.
    """
    nulls: dict[str, tuple[User, dict[str, object]]] = {}
    for user, by_assistant in played.items():
        if user == REFERENCE:
            continue
        at_goal: dict[str, list[Conversation]] = {}
        for conversations in by_assistant.values():
            for conversation in conversations:
                at_goal.setdefault(conversation.id, []).append(conversation)
        picked = [made[zlib.crc32(goal.encode()) % len(made)] for goal, made in at_goal.items()]
        scripts = {
            one.profile.model_dump_json(): [turn.text for turn in one.turns if turn.role == "user"]
            for one in picked
        }
        digest = hashlib.sha256(json.dumps(scripts, sort_keys=True).encode()).hexdigest()
        name = null_name(user)
        nulls[name] = Replay(name, scripts), {"replay_of": user, "scripts_sha256": digest}
    return nulls


def null_name(user: str) -> str:
    return f"{user}-null"


def users_from(args: argparse.Namespace) -> dict[str, tuple[User, dict[str, object]]]:
    """By name: the user, and what must be the same when its batch is resumed."""
    found: dict[str, tuple[User, dict[str, object]]] = {}
    if args.url:
        found["userlm"] = connect(args.url), {"url": args.url}
    if args.model:
        found["userlm-local"] = load(None if args.model == "shipped" else args.model), {"model": args.model}
    for where in args.prompted:
        name = f"prompted{len(found) + 1}" if "prompted" in found else "prompted"
        user = PromptedUser(_prompted_chat(where), name=name, prompt=BY_NAME[args.prompt])
        found[name] = user, {"prompted": where, "prompt": prompt_hash(user.prompt)}
    if not found:
        raise ConfigError("nobody to measure: give --url, --model or --prompted")
    if not args.no_reference:
        found[REFERENCE] = FrankUser(), {}
    return found


def _prompted_chat(where: str) -> EndpointChat:
    url, _, model = where.partition("#")
    if url == "local":
        return assistant_from("local", max_tokens=PROMPTED_TOKENS)  # type: ignore[return-value]
    settings = ChatSettings(max_tokens=PROMPTED_TOKENS, temperature=PROMPTED_TEMPERATURE)
    return EndpointChat(url, model=model or None, api_key=os.environ.get("OPENAI_API_KEY"), settings=settings)


def faceted_cases(path: str | Path, limit: int | None) -> tuple[list[Case], int]:
    """(cases whose goal has facets, how many had none). Raises DataError where none has, or ids repeat."""
    cases = read_cases(path)
    tell_goals(path, len(cases), with_goal=sum(case.profile.goal is not None for case in cases))
    kept = [case for case in cases if case.profile.goal and case.profile.goal.facets]
    if not kept:
        raise DataError(f"{path}: no goal has facets, and what an assistant serves is counted in facets")
    if len({case.id for case in kept}) < len(kept):
        raise ConfigError(f"{path}: ids repeat; every case needs its own")
    return kept[:limit], len(cases) - len(kept)


def play(
    users: Mapping[str, tuple[User, dict[str, object]]],
    assistants: Mapping[str, Assistant],
    cases: Sequence[Case],
    args: argparse.Namespace,
    advance: Callable[[str, int], None],
) -> tuple[Played, dict[str, int]]:
    """Every user with every assistant on the same goals and seeds; (conversations, failures by who met whom).

    What is on disk already is not played again. Raises BackendError when an engine seems to be down.
    """
    played: Played = {}
    failed: dict[str, int] = {}
    for user_name, (user, identity) in users.items():
        for assistant_name, assistant in assistants.items():
            label = f"{user_name} with {assistant_name}"
            settings = {**_settings(args), **identity, "planted": assistant_name}
            journal = BatchJournal(
                args.out / "conversations" / user_name / f"{assistant_name}.jsonl", settings
            )
            missing = [case for case in cases if case.id not in journal.finished]
            advance(label, len(cases) - len(missing))
            if missing:
                step = partial(advance, label, 1)
                lost = _play(user_name, user, assistant, missing, journal, args, step)
                failed |= {label: lost} if lost else {}
                journal.close([case.id for case in cases], {"failed": lost})
            made = (journal.finished.get(case.id) for case in cases)
            played.setdefault(user_name, {})[assistant_name] = [one for one in made if one is not None]
    return played, failed


def _play(
    name: str,
    user: User,
    assistant: Assistant,
    missing: Sequence[Case],
    journal: BatchJournal,
    args: argparse.Namespace,
    advance: Callable[[], None],
) -> int:
    def done(made: Conversation | None) -> None:
        if made is not None:
            journal.add(made)
        advance()

    outcome = run(
        simulate(
            user,
            assistant,
            missing,
            max_user_turns=args.turns,
            seed=args.seed,
            source=name,
            concurrency=args.concurrency,
            done=done,
        )
    )
    if outcome.not_begun or not journal.finished:
        raise BackendError(
            f"{name}: given up after failures in a row ({outcome.first_error}); what is finished is kept: "
            "run the same command again to go on"
        )
    return sum(outcome.failed.values())


def _settings(args: argparse.Namespace) -> dict[str, object]:
    own = ("assistant", "assistant_tokens", "turns", "seed", "limit")
    return {"goals_sha256": file_hash(Path(args.goals)), **{key: getattr(args, key) for key in own}}
