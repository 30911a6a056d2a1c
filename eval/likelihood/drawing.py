"""Turns drawn from a simulated user at chosen places, many at once, kept in a journal so that a kill loses little."""

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
    """One turn to draw: who speaks, after which history."""

    key: str
    profile: UserProfile
    turns: tuple[Turn, ...] = ()
    seed: int | None = None
    """Its own seed, whatever else is drawn; None: by its place in the list."""


class Drawn(Record):
    key: str
    turn: UserTurn


@dataclass
class Batch:
    """What came back. An ask that failed (every attempt refused, engine error) is counted and has no turn."""

    turns: dict[str, UserTurn] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)

    def text(self, key: str) -> str | None:
        """The words of a turn; None where there are none: it failed, or the person left."""
        turn = self.turns.get(key)
        return None if turn is None or turn.ends else turn.text


class DrawJournal:
    """JSON Lines of drawn turns under a first line that names what they depend on."""

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path, self._head = path, json.dumps(identity, sort_keys=True)
        self.turns: dict[str, UserTurn] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._read():
            append_line(self.path, self._head)

    def _read(self) -> bool:
        """Whether there was a first line. What is not a whole line, of a kill or a full disk, is cut off."""
        if not self.path.is_file():
            return False
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        head, *lines = whole.split(b"\n")
        if whole and head.decode(errors="replace") != self._head:
            raise DataError(
                f"{self.path}: drawn with another model or seed; choose another --out or delete it"
            )
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        for number, line in enumerate(lines[:-1], start=2):
            try:
                drawn = Drawn.model_validate_json(line)
            except ValueError as error:
                raise DataError(f"{self.path}:{number}: damaged; delete that line to go on") from error
            self.turns[drawn.key] = drawn.turn
        return bool(whole)

    def add(self, key: str, turn: UserTurn) -> None:
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
    """Every ask once; ask i draws from its own seed, else from seed + 97 i, whatever else runs."""
    batch, gate = Batch(), asyncio.Semaphore(concurrency)

    async def one(index: int, ask: Ask) -> None:
        async with gate:
            turn = journal.turns.get(ask.key)
            try:
                own = seed + 97 * index if ask.seed is None else ask.seed
                turn = turn or await user(ask.profile, ask.turns, seed=own)
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
    """First turns under these goals and no persona."""
    return [
        Ask(f"opening {c.id}", UserProfile(goal=goal)) for c, goal in zip(conversations, goals, strict=True)
    ]


def replies(conversations: Sequence[Conversation], most: int) -> list[Ask]:
    """At most `most` later turns of each conversation, after the real history and under the own goal."""
    asks = []
    for conversation in conversations:
        places = [i for i, turn in enumerate(conversation.turns) if turn.role == "user" and i > 0][:most]
        goal = UserProfile(goal=conversation.profile.goal)
        asks += [Ask(f"reply {conversation.id} {i}", goal, conversation.turns[:i]) for i in places]
    return asks
