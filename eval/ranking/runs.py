"""Runs of simulated users with the planted assistants: resumable, stored on disk by user and assistant."""

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
"""Sampling settings of prompted users, equal to those of a User LM."""
ConversationsByUser = dict[str, dict[str, list[Conversation]]]
"""Conversations by user, then by assistant."""


class ReferenceUser:
    """Reference user: says the whole goal at once and leaves.

    Where even its scores do not show the planted order, the cause is the score or the base model, not the
    simulator. It ignores all answers, so it is its own null user.
    """

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
    """Null user: repeats what a user said to one assistant at this goal, whatever the current assistant answers."""

    def __init__(self, name: str, scripts: Mapping[str, Sequence[str]]) -> None:
        self.name, self.scripts = name, scripts

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        script = self.scripts.get(profile.model_dump_json())
        if script is None:
            raise DataError(f"{self.name}: no conversation at this goal to replay")
        turns_so_far = sum(turn.role == "user" for turn in turns)
        ends = turns_so_far >= len(script)
        return UserTurn(
            text="" if ends else script[turns_so_far],
            ends=ends,
            end_probability=float(ends),
            finish="end" if ends else "stop",
            logprob=0.0,
            tokens=0,
            seed=seed,
        )


def null_users(played: ConversationsByUser) -> dict[str, tuple[User, dict[str, object]]]:
    """Returns a null user for every user that listens, in the form of `users_from`.

    The script at a goal is what the user said there to one of the assistants, selected by the goal's id. So words
    and lengths are the user's own, and the current assistant has no influence on them.
    """
    nulls: dict[str, tuple[User, dict[str, object]]] = {}
    for user, by_assistant in played.items():
        if user == REFERENCE:
            continue
        at_goal: dict[str, list[Conversation]] = {}
        for conversations in by_assistant.values():
            for conversation in conversations:
                at_goal.setdefault(conversation.id, []).append(conversation)
        replayed = [
            goal_conversations[zlib.crc32(goal.encode()) % len(goal_conversations)]
            for goal, goal_conversations in at_goal.items()
        ]
        scripts = {
            conversation.profile.model_dump_json(): [
                turn.text for turn in conversation.turns if turn.role == "user"
            ]
            for conversation in replayed
        }
        digest = hashlib.sha256(json.dumps(scripts, sort_keys=True).encode()).hexdigest()
        name = null_name(user)
        nulls[name] = Replay(name, scripts), {"replay_of": user, "scripts_sha256": digest}
    return nulls


def null_name(user: str) -> str:
    return f"{user}-null"


def users_from(args: argparse.Namespace) -> dict[str, tuple[User, dict[str, object]]]:
    """Returns by name the user and the settings that must not change when its batch is resumed."""
    users: dict[str, tuple[User, dict[str, object]]] = {}
    if args.url:
        users["userlm"] = connect(args.url), {"url": args.url}
    if args.model:
        users["userlm-local"] = load(None if args.model == "shipped" else args.model), {"model": args.model}
    for spec in args.prompted:
        name = f"prompted{len(users) + 1}" if "prompted" in users else "prompted"
        user = PromptedUser(_prompted_chat(spec), name=name, prompt=BY_NAME[args.prompt])
        users[name] = user, {"prompted": spec, "prompt": prompt_hash(user.prompt)}
    if not users:
        raise ConfigError("no user to measure: give --url, --model or --prompted")
    if not args.no_reference:
        users[REFERENCE] = ReferenceUser(), {}
    return users


def _prompted_chat(spec: str) -> EndpointChat:
    url, _, model = spec.partition("#")
    if url == "local":
        return assistant_from("local", max_tokens=PROMPTED_TOKENS)  # type: ignore[return-value]
    settings = ChatSettings(max_tokens=PROMPTED_TOKENS, temperature=PROMPTED_TEMPERATURE)
    return EndpointChat(url, model=model or None, api_key=os.environ.get("OPENAI_API_KEY"), settings=settings)


def faceted_cases(path: str | Path, limit: int | None) -> tuple[list[Case], int]:
    """Returns (cases whose goal has facets, number of cases without). Raises DataError where no goal has facets, or
    ids repeat."""
    cases = read_cases(path)
    tell_goals(path, len(cases), with_goal=sum(case.profile.goal is not None for case in cases))
    faceted = [case for case in cases if case.profile.goal and case.profile.goal.facets]
    if not faceted:
        raise DataError(f"{path}: no goal has facets, and what an assistant serves is counted in facets")
    if len({case.id for case in faceted}) < len(faceted):
        raise ConfigError(f"{path}: ids repeat; every case needs its own")
    return faceted[:limit], len(cases) - len(faceted)


def play(
    users: Mapping[str, tuple[User, dict[str, object]]],
    assistants: Mapping[str, Assistant],
    cases: Sequence[Case],
    args: argparse.Namespace,
    advance: Callable[[str, int], None],
) -> tuple[ConversationsByUser, dict[str, int]]:
    """Plays every user with every assistant on the same goals and seeds.

    Conversations that are on disk are not played again. Raises BackendError when an engine seems to be down.

    Returns:
        (conversations, failures by user and assistant).
    """
    played: ConversationsByUser = {}
    failed: dict[str, int] = {}
    for user_name, (user, cache_keys) in users.items():
        for assistant_name, assistant in assistants.items():
            label = f"{user_name} with {assistant_name}"
            settings = {**_settings(args), **cache_keys, "planted": assistant_name}
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
            conversations_or_none = (journal.finished.get(case.id) for case in cases)
            played.setdefault(user_name, {})[assistant_name] = [
                conversation for conversation in conversations_or_none if conversation is not None
            ]
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
    def done(conversation: Conversation | None) -> None:
        if conversation is not None:
            journal.add(conversation)
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
            f"{name}: stopped after repeated failures ({outcome.first_error}); finished conversations are kept: "
            "run the same command again to continue"
        )
    return sum(outcome.failed.values())


def _settings(args: argparse.Namespace) -> dict[str, object]:
    options = ("assistant", "assistant_tokens", "turns", "seed", "limit")
    return {"goals_sha256": file_hash(Path(args.goals)), **{key: getattr(args, key) for key in options}}
