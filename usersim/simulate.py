"""Many conversations at once: bounded concurrency, failures counted and left out, resumable."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from usersim.dialogue import Assistant, converse
from usersim.errors import DataError, UsersimError
from usersim.records import atomic_writer, read_jsonl, write_records
from usersim.sampling import User
from usersim.types import Conversation, Goal, Persona, UserProfile


@dataclass
class Outcome:
    """What a batch came to. `failed` counts conversations by the class of their error."""

    conversations: list[Conversation] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None


@dataclass(frozen=True)
class Case:
    id: str
    profile: UserProfile
    index: int
    """Place in the file: its seed is seed + index, also when a batch is resumed."""


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
    if "profile" in value or "turns" in value:  # a Conversation, whose empty profile is not written
        return Case(identifier, UserProfile.model_validate(value.get("profile", {})), index)
    goal, persona = value["goal"], value.get("persona")
    if isinstance(goal, str):
        facets = value.get("facets", [])
        goal = Goal.model_validate({"summary": goal, "facets": facets})
    else:
        goal = Goal.model_validate(goal)
    made = Persona(description=persona) if isinstance(persona, str) else None
    if persona is not None and made is None:
        made = Persona.model_validate(persona)
    return Case(identifier, UserProfile(goal=goal, persona=made), index)


async def simulate(
    user: User,
    assistant: Assistant,
    cases: Sequence[Case],
    *,
    max_user_turns: int,
    seed: int,
    source: str,
    system: str | None = None,
    concurrency: int = 32,
    done: Callable[[Conversation | None], None] | None = None,
) -> Outcome:
    """One conversation a case, in the order of `cases`. A case draws from seed + its index, whatever else runs."""
    outcome, gate = Outcome(), asyncio.Semaphore(concurrency)

    async def one(case: Case) -> Conversation | None:
        async with gate:
            try:
                made = await converse(
                    user,
                    assistant,
                    case.profile,
                    max_user_turns=max_user_turns,
                    system=system,
                    seed=seed + case.index,
                    id=case.id,
                    source=source,
                )
            except UsersimError as error:
                outcome.failed[type(error).__name__] += 1
                outcome.first_error = outcome.first_error or str(error)
                made = None
        if done:
            done(made)
        return made

    finished = await asyncio.gather(*(one(case) for case in cases))
    outcome.conversations = [made for made in finished if made is not None]
    return outcome


class Journal:
    """Finished conversations beside the output, so that an interrupted batch continues where it stopped."""

    def __init__(self, out: str | Path, settings: dict[str, object]) -> None:
        self.out = Path(out)
        self.path = self.out.with_name(f".{self.out.name}.partial")
        self._settings = json.dumps(settings, sort_keys=True)
        self.finished: dict[str, Conversation] = {}
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        # Not splitlines(): chat text may hold U+2028, which is no end of a line in JSON Lines.
        lines = self.path.read_text(encoding="utf-8").split("\n")
        if not lines or lines[0] != self._settings:
            raise DataError(
                f"{self.path} holds an interrupted batch with other settings; repeat those to resume it, or delete it"
            )
        for line in lines[1:]:
            try:
                made = Conversation.model_validate_json(line)
            except ValueError:
                break  # the line being written when the process was killed
            self.finished[made.id] = made
        with atomic_writer(self.path) as stream:  # without that half line, which the next one would join
            whole = [made.model_dump_json(exclude_defaults=True) for made in self.finished.values()]
            stream.write("\n".join([self._settings, *whole]) + "\n")

    def add(self, made: Conversation) -> None:
        first = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            if first:
                stream.write(self._settings + "\n")
            stream.write(made.model_dump_json(exclude_defaults=True) + "\n")
        self.finished[made.id] = made

    def close(self, order: Sequence[str]) -> int:
        """Writes the output in the order of the cases and removes the journal."""
        count = write_records(self.out, (self.finished[i] for i in order if i in self.finished))
        self.path.unlink(missing_ok=True)
        return count
