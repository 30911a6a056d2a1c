"""Concurrent drawing of turns from a simulated user at given prefixes, with a journal to resume from."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from usersim.errors import DataError, UsersimError
from usersim.storage.records import append_line
from usersim.types import Conversation, Goal, Record, Turn, UserProfile, UserTurn
from usersim.users.protocols import User


@dataclass(frozen=True)
class Ask:
    """Request for one turn of a simulated user.

    Attributes:
        key: Unique key of the request.
        profile: Goal and persona of the user.
        turns: History before the turn.
        seed: Seed of the request; None: derived from its index in the list.
    """

    key: str
    profile: UserProfile
    turns: tuple[Turn, ...] = ()
    seed: int | None = None


class Drawn(Record):
    """Line of the journal: a drawn turn."""

    key: str
    turn: UserTurn


@dataclass
class Batch:
    """Results of a list of requests.

    Attributes:
        turns: Turns by key of the request. A failed request (all attempts rejected, engine error) has none.
        failed: Number of failed requests by class of error.
    """

    turns: dict[str, UserTurn] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)

    def text(self, key: str) -> str | None:
        """Text of a turn; None if the request failed or the user left."""
        turn = self.turns.get(key)
        return None if turn is None or turn.ends else turn.text


class DrawJournal:
    """Append-only JSON Lines file of drawn turns. Its first line names what the turns depend on.

    Args:
        path: File; created if missing.
        header_fields: Fields of the first line: model, seed and everything else that the turns depend on.

    Raises:
        DataError: The file was written under other fields, or a line is damaged.
    """

    def __init__(self, path: Path, header_fields: dict[str, str]) -> None:
        self.path, self._header_line = path, json.dumps(header_fields, sort_keys=True)
        self.turns: dict[str, UserTurn] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._read():
            append_line(self.path, self._header_line)

    def _read(self) -> bool:
        """Reads the file and truncates a partial last line; returns True if it has a first line."""
        if not self.path.is_file():
            return False
        data = self.path.read_bytes()
        complete_lines = data[: data.rfind(b"\n") + 1]
        head, *lines = complete_lines.split(b"\n")
        if complete_lines and head.decode(errors="replace") != self._header_line:
            raise DataError(
                f"{self.path}: drawn with another model or seed; delete the file or choose another --out"
            )
        if len(complete_lines) < len(data):
            os.truncate(self.path, len(complete_lines))
        for number, line in enumerate(lines[:-1], start=2):
            try:
                record = Drawn.model_validate_json(line)
            except ValueError as error:
                raise DataError(
                    f"{self.path}:{number}: the line is damaged; delete it to continue"
                ) from error
            self.turns[record.key] = record.turn
        return bool(complete_lines)

    def add(self, key: str, turn: UserTurn) -> None:
        """Appends a turn to the file."""
        append_line(self.path, Drawn(key=key, turn=turn).model_dump_json(exclude_defaults=True))


async def draw(
    user: User,
    asks: Sequence[Ask],
    journal: DrawJournal,
    *,
    seed: int,
    concurrency: int = 48,
    done: Callable[[], None] | None = None,
) -> Batch:
    """Draws one turn per request.

    Request i without a seed uses seed + 97 i, independent of the order of completion. Requests in the journal are not
    drawn again.

    Args:
        user: Simulated user.
        asks: Requests.
        journal: Turns on disk.
        seed: Base of the seeds.
        concurrency: Maximum number of concurrent requests.
        done: Called after every request.
    """
    batch, slots = Batch(), asyncio.Semaphore(concurrency)

    async def one(index: int, ask: Ask) -> None:
        async with slots:
            turn = journal.turns.get(ask.key)
            try:
                request_seed = seed + 97 * index if ask.seed is None else ask.seed
                turn = turn or await user(ask.profile, ask.turns, seed=request_seed)
            except UsersimError as error:
                batch.failed[type(error).__name__] += 1
            else:
                if ask.key not in journal.turns:
                    journal.add(ask.key, turn)
                batch.turns[ask.key] = turn
        if done:
            done()

    await asyncio.gather(*(one(index, ask) for index, ask in enumerate(asks)))
    return batch


def openings(conversations: Sequence[Conversation], goals: Sequence[Goal | None]) -> list[Ask]:
    """Returns requests for first turns under the given goals, without a persona."""
    return [
        Ask(f"opening {c.id}", UserProfile(goal=goal)) for c, goal in zip(conversations, goals, strict=True)
    ]


def replies(conversations: Sequence[Conversation], most: int) -> list[Ask]:
    """Returns requests for at most `most` later turns of each conversation, under its goal, after the real history."""
    asks = []
    for conversation in conversations:
        places = [i for i, turn in enumerate(conversation.turns) if turn.role == "user" and i > 0][:most]
        goal = UserProfile(goal=conversation.profile.goal)
        asks += [Ask(f"reply {conversation.id} {i}", goal, conversation.turns[:i]) for i in places]
    return asks
