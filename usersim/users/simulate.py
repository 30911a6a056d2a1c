"""Batch simulation of conversations: bounded concurrency, retries, failure counts, resumable output."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from usersim.errors import BackendError, DataError, UsersimError
from usersim.storage.records import (
    append_line,
    atomic_writer,
    read_conversations,
    read_jsonl,
    whole_lines,
    write_json,
    write_records,
)
from usersim.types import Conversation, Goal, Persona, UserProfile
from usersim.users.dialogue import Assistant, converse
from usersim.users.plain_functions import PlainAssistant, PlainUser, as_assistant, as_user
from usersim.users.protocols import User

P = ParamSpec("P")
T = TypeVar("T")
logger = logging.getLogger(__name__)
LONGEST_WAIT_S = 30.0
MAX_CONSECUTIVE_FAILURES = 10
"""Number of consecutive failures after which no further conversation is started."""


@dataclass
class SimulationResult:
    """Result of a batch. `failed` counts conversations by the class of their error."""

    conversations: list[Conversation] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None
    retries: int = 0
    not_begun: int = 0
    """Number of conversations not started, since an engine seemed to be down."""


@dataclass(frozen=True)
class Case:
    """Conversation to simulate: an id, a profile and its position in the input file."""

    id: str
    profile: UserProfile
    index: int
    """Position in the file. The case's seed is seed + index, also when a batch is resumed."""
    group: str | None = None
    """Cluster for confidence intervals: the author of the goal, or the goal if it is simulated several times."""


def read_cases(path: str | Path) -> list[Case]:
    """Reads cases from JSON Lines: the `profile` of a conversation or row, or `goal` (string or object) and
    `persona`."""
    cases: list[Case] = []
    for number, value in read_jsonl(path):
        try:
            cases.append(_case(value, number, len(cases)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}:{number}: needs {{id?, goal, persona?}} or {{id?, profile}} ({reason})"
            ) from error
    if not cases:
        raise DataError(f"{path}: no goals in it")
    return cases


def _case(value: dict[str, object], number: int, index: int) -> Case:
    identifier = str(value.get("id", number))
    group = None if value.get("group") is None else str(value["group"])
    if "profile" in value or "turns" in value:  # a Conversation; an empty profile is not written
        return Case(identifier, UserProfile.model_validate(value.get("profile", {})), index, group)
    goal, persona = value["goal"], value.get("persona")
    if isinstance(goal, str):
        facets = value.get("facets", [])
        goal = Goal.model_validate({"summary": goal, "facets": facets})
    else:
        goal = Goal.model_validate(goal)
    parsed_persona = Persona(description=persona) if isinstance(persona, str) else None
    if persona is not None and parsed_persona is None:
        parsed_persona = Persona.model_validate(persona)
    return Case(identifier, UserProfile(goal=goal, persona=parsed_persona), index, group)


def repeated(cases: Sequence[Case], times: int, *, of: int) -> list[Case]:
    """Repeats every case `times` times with different seeds.

    `of`: number of cases in the file, so that seeds are unique.
    """
    if times == 1:
        return list(cases)
    return [
        replace(case, id=f"{case.id}#{k + 1}", index=case.index + k * of, group=case.group or case.id)
        for case in cases
        for k in range(times)
    ]


async def simulate(
    user: User | PlainUser,
    assistant: Assistant | PlainAssistant,
    cases: Sequence[Case],
    *,
    max_user_turns: int,
    seed: int,
    source: str,
    system: str | None = None,
    concurrency: int = 32,
    retries: int = 2,
    backoff_s: float = 1.0,
    done: Callable[[Conversation | None], None] | None = None,
) -> SimulationResult:
    """Simulates one conversation per case.

    After `MAX_CONSECUTIVE_FAILURES` failures in a row, or `concurrency` if that is larger, no further case is started.

    Args:
        user: Simulated user. A plain function is wrapped.
        assistant: Assistant under test. A plain function is wrapped.
        cases: Goals and personas to simulate.
        max_user_turns: Limit of user turns. A conversation is cut there.
        seed: Base seed. A case uses seed + its index, whatever else runs.
        source: Source of the records. Usually the name of the user.
        system: System prompt of the assistant. The user does not see it.
        concurrency: Maximum number of conversations at a time. Others wait.
        retries: Retries of a turn, with the same seed. Only retryable errors count (`BackendError.retryable`).
        backoff_s: Wait before the first retry, in seconds; it doubles with each one.
        done: Callback for each finished conversation; None for a failed one.

    Returns:
        Conversations in the order of `cases`, and counts of failures.
    """
    outcome, semaphore, failures = SimulationResult(), asyncio.Semaphore(concurrency), 0
    retrier = _Retrier(outcome, retries, backoff_s)
    retrying_user = retrier.wrap(as_user(user))
    retrying_assistant = retrier.wrap(as_assistant(assistant, system=system))

    async def one(case: Case) -> Conversation | None:
        nonlocal failures
        async with semaphore:
            if failures >= max(MAX_CONSECUTIVE_FAILURES, concurrency):
                outcome.not_begun += 1
                return None
            try:
                conversation = await converse(
                    retrying_user,
                    retrying_assistant,
                    case.profile,
                    max_user_turns=max_user_turns,
                    system=system,
                    seed=seed + case.index,
                    id=case.id,
                    source=source,
                )
                conversation, failures = conversation.model_copy(update={"group": case.group}), 0
            except UsersimError as error:
                failures += isinstance(error, BackendError)
                outcome.failed[type(error).__name__] += 1
                outcome.first_error = outcome.first_error or str(error)
                conversation = None
        if done:
            done(conversation)
        return conversation

    finished = await asyncio.gather(*(one(case) for case in cases))
    outcome.conversations = [conversation for conversation in finished if conversation is not None]
    return outcome


class _Retrier:
    """Retries with exponential backoff after retryable errors. Safe, since a turn has no side effects."""

    def __init__(self, outcome: SimulationResult, retries: int, backoff_s: float) -> None:
        self.outcome, self.retries, self.backoff_s = outcome, retries, backoff_s

    def wrap(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for attempt in range(self.retries):
                try:
                    return await function(*args, **kwargs)
                except BackendError as error:
                    if not error.retryable:
                        raise
                self.outcome.retries += 1
                wait_s = min(self.backoff_s * 2**attempt, LONGEST_WAIT_S)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))
            return await function(*args, **kwargs)

        return call


def run_file(out: str | Path) -> Path:
    """Returns the path of the run record of `out`: `sim.run.json` for `sim.jsonl`."""
    return Path(out).with_suffix(".run.json")


class BatchJournal:
    """Journal of finished conversations beside the output, so that an interrupted batch can be resumed.

    A batch that ended with failures can be resumed too: with the same settings in its run file, only the conversations
    missing in the output are simulated.
    """

    def __init__(self, out: str | Path, settings: dict[str, object]) -> None:
        self.out = Path(out)
        self.path = self.out.with_name(f".{self.out.name}.partial")
        self._settings = json.dumps(settings, sort_keys=True)
        self._sessions: list[dict[str, object]] = []
        self.finished: dict[str, Conversation] = {}
        if self.out.is_file() and run_file(self.out).is_file():
            self._read_output()
        if self.path.is_file():
            self._read()

    def _read_output(self) -> None:
        try:
            run = json.loads(run_file(self.out).read_text(encoding="utf-8"))
            before, self._sessions = dict(run["settings"]), list(run["sessions"])
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{run_file(self.out)}: not the record of a batch ({error}); choose another --out or delete it"
            ) from error
        if differ := self._difference(before):
            raise DataError(
                f"{self.out} was made with other settings ({differ}); choose another --out or delete it"
            )
        self.finished = {conversation.id: conversation for conversation in read_conversations(self.out)}

    def _read(self) -> None:
        """Reads the journal of a killed batch. Damaged lines are left out, and those conversations simulated again."""
        lines = {number: (line, value) for number, line, value in whole_lines(self.path)}
        _, before = lines.pop(1, ("", None))
        if isinstance(before, dict) and (differ := self._difference(before)):
            raise DataError(
                f"{self.path} holds an interrupted batch with other settings ({differ}); repeat those to resume it, "
                "or delete it"
            )
        if lines and not isinstance(before, dict):
            raise DataError(f"{self.path}:1: damaged first line, which holds the settings; delete the file")
        for number, (line, _) in lines.items():
            try:
                conversation = Conversation.model_validate_json(line)
            except ValueError:
                logger.warning("%s:%d: not a conversation; it will be simulated again", self.path, number)
                continue
            self.finished[conversation.id] = conversation
        with atomic_writer(self.path) as stream:
            whole = [
                conversation.model_dump_json(exclude_defaults=True) for conversation in self.finished.values()
            ]
            stream.write("\n".join([self._settings, *whole]) + "\n")

    def _difference(self, before: dict[str, object]) -> str:
        now = json.loads(self._settings)
        return ", ".join(sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k)))

    def add(self, conversation: Conversation) -> None:
        """Appends one conversation. Raises BackendError if the disk is full; earlier ones are kept."""
        if not self.path.exists():
            append_line(self.path, self._settings)
        append_line(self.path, conversation.model_dump_json(exclude_defaults=True))
        self.finished[conversation.id] = conversation

    def close(self, order: Sequence[str], session: dict[str, object] | None = None) -> int:
        """Writes the output in the order of the cases, adds `session` to its run file and removes the journal.

        Returns the number of conversations in the output.
        """
        ids = [i for i in order if i in self.finished]
        ids += [i for i in self.finished if i not in set(order)]  # of a longer batch
        count = write_records(self.out, (self.finished[i] for i in ids))
        if session is not None:
            sessions = [*self._sessions, session]
            settings = json.loads(self._settings)
            write_json(
                run_file(self.out), {"settings": settings, "conversations": count, "sessions": sessions}
            )
        self.path.unlink(missing_ok=True)
        return count
