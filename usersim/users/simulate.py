"""Many conversations at once: bounded concurrency, failures tried again, counted and left out, resumable."""

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
SILENT = 10
"""So many failures in a row, with nothing finished in between, and nothing more is begun."""


@dataclass
class Outcome:
    """What a batch came to. `failed` counts conversations by the class of their error."""

    conversations: list[Conversation] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None
    retries: int = 0
    not_begun: int = 0
    """Given up on, since an engine seemed to be down."""


@dataclass(frozen=True)
class Case:
    id: str
    profile: UserProfile
    index: int
    """Place in the file: its seed is seed + index, also when a batch is resumed."""
    group: str | None = None
    """Whose goal it is, or which goal where one is played several times: the cluster of intervals."""


def read_cases(path: str | Path) -> list[Case]:
    """Goals from JSON Lines: a Conversation's or row's `profile`, or `goal` (string or object) and `persona`."""
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
    if "profile" in value or "turns" in value:  # a Conversation, whose empty profile is not written
        return Case(identifier, UserProfile.model_validate(value.get("profile", {})), index, group)
    goal, persona = value["goal"], value.get("persona")
    if isinstance(goal, str):
        facets = value.get("facets", [])
        goal = Goal.model_validate({"summary": goal, "facets": facets})
    else:
        goal = Goal.model_validate(goal)
    made = Persona(description=persona) if isinstance(persona, str) else None
    if persona is not None and made is None:
        made = Persona.model_validate(persona)
    return Case(identifier, UserProfile(goal=goal, persona=made), index, group)


def repeated(cases: Sequence[Case], times: int, *, of: int) -> list[Case]:
    """Every case `times` times, from seeds of its own; `of`: cases in the file, so that none meets another's seed."""
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
) -> Outcome:
    """One conversation a case, in the order of `cases`. A case draws from seed + its index, whatever else runs.

    A turn that may succeed later (`BackendError.retryable`) is asked for `retries` times more, from the same seed.
    After `SILENT` failures in a row, and at least one for every place of `concurrency`, no further case is begun.
    """
    outcome, gate, silent = Outcome(), asyncio.Semaphore(concurrency), 0
    wait = _Patience(outcome, retries, backoff_s)
    patient_user = wait.over(as_user(user))
    patient_assistant = wait.over(as_assistant(assistant, system=system))

    async def one(case: Case) -> Conversation | None:
        nonlocal silent
        async with gate:
            if silent >= max(SILENT, concurrency):
                outcome.not_begun += 1
                return None
            try:
                made = await converse(
                    patient_user,
                    patient_assistant,
                    case.profile,
                    max_user_turns=max_user_turns,
                    system=system,
                    seed=seed + case.index,
                    id=case.id,
                    source=source,
                )
                made, silent = made.model_copy(update={"group": case.group}), 0
            except UsersimError as error:
                silent += isinstance(error, BackendError)
                outcome.failed[type(error).__name__] += 1
                outcome.first_error = outcome.first_error or str(error)
                made = None
        if done:
            done(made)
        return made

    finished = await asyncio.gather(*(one(case) for case in cases))
    outcome.conversations = [made for made in finished if made is not None]
    return outcome


class _Patience:
    """Asks again, a little later each time, where that may help; a turn changes nothing, so it may be repeated."""

    def __init__(self, outcome: Outcome, retries: int, backoff_s: float) -> None:
        self.outcome, self.retries, self.backoff_s = outcome, retries, backoff_s

    def over(self, ask: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def asked(*args: P.args, **kwargs: P.kwargs) -> T:
            for tried in range(self.retries):
                try:
                    return await ask(*args, **kwargs)
                except BackendError as error:
                    if not error.retryable:
                        raise
                self.outcome.retries += 1
                wait_s = min(self.backoff_s * 2**tried, LONGEST_WAIT_S)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1))
            return await ask(*args, **kwargs)

        return asked


def run_file(out: str | Path) -> Path:
    """The record of how `out` was made: `sim.jsonl` has `sim.run.json`."""
    return Path(out).with_suffix(".run.json")


class Journal:
    """Finished conversations beside the output, so that an interrupted batch continues where it stopped.

    A batch that ended with failures continues too: with the same settings in its run file, only what is missing
    in the output is left to do.
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
        self.finished = {made.id: made for made in read_conversations(self.out)}

    def _read(self) -> None:
        """What a killed batch left. Whatever of it is damaged is left out, and so made anew."""
        lines = {number: (line, value) for number, line, value in whole_lines(self.path)}
        _, before = lines.pop(1, ("", None))
        if isinstance(before, dict) and (differ := self._difference(before)):
            raise DataError(
                f"{self.path} holds an interrupted batch with other settings ({differ}); repeat those to resume it, "
                "or delete it"
            )
        if lines and not isinstance(before, dict):
            raise DataError(f"{self.path}:1: damaged, so that its settings are unknown; delete the file")
        for number, (line, _) in lines.items():
            try:
                made = Conversation.model_validate_json(line)
            except ValueError:
                logger.warning("%s:%d: not a conversation; it is made anew", self.path, number)
                continue
            self.finished[made.id] = made
        with atomic_writer(self.path) as stream:
            whole = [made.model_dump_json(exclude_defaults=True) for made in self.finished.values()]
            stream.write("\n".join([self._settings, *whole]) + "\n")

    def _difference(self, before: dict[str, object]) -> str:
        now = json.loads(self._settings)
        return ", ".join(sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k)))

    def add(self, made: Conversation) -> None:
        """Raises BackendError where the disk is full; what was added before is kept."""
        if not self.path.exists():
            append_line(self.path, self._settings)
        append_line(self.path, made.model_dump_json(exclude_defaults=True))
        self.finished[made.id] = made

    def close(self, order: Sequence[str], session: dict[str, object] | None = None) -> int:
        """Writes the output in the order of the cases, adds `session` to its run file, removes the journal."""
        found = [i for i in order if i in self.finished]
        found += [i for i in self.finished if i not in set(order)]  # of a longer batch
        count = write_records(self.out, (self.finished[i] for i in found))
        if session is not None:
            sessions = [*self._sessions, session]
            settings = json.loads(self._settings)
            write_json(
                run_file(self.out), {"settings": settings, "conversations": count, "sessions": sessions}
            )
        self.path.unlink(missing_ok=True)
        return count
