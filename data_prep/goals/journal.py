"""What was made of each conversation, one line each beside the output, so that a run can stop at any byte."""

from __future__ import annotations

import fcntl
import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from pydantic import ValidationError

from data_prep.goals.annotations import Annotation, phrase
from data_prep.goals.overlap import overlap, user_texts
from data_prep.goals.providers import NoGoal
from usersim.errors import ConfigError, DataError
from usersim.storage.records import atomic_writer
from usersim.types import Conversation, Record


class Entry(Record):
    key: str
    annotation: Annotation | None = None
    no_goal: str | None = None
    overlap: float = 0.0
    """Of the goal's wording with the person's."""


@dataclass
class Written:
    goals: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    overlaps: array[float] = field(default_factory=lambda: array("f"))


def key_of(conversation: Conversation) -> str:
    """Of the id and the text: another corpus may use the same ids."""
    parts = (conversation.id, *(turn.text for turn in conversation.turns))
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:24]


class GoalJournal:
    """A context manager: only one run at a time may hold it. In memory it has an offset a conversation."""

    def __init__(self, out: Path, made_with: dict[str, object]) -> None:
        self.out, self.path = out, out.with_name(f"{out.name}.partial")
        self._header = json.dumps(made_with, sort_keys=True)
        self._places: dict[str, int] = {}

    def __enter__(self) -> GoalJournal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what a full disk refuses must not be tried again on closing.
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written to ({error.strerror})") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ConfigError(f"{self.path}: another run is writing there") from error
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self._places:
            self.path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def add(self, conversation: Conversation, made: Annotation | NoGoal) -> None:
        key = key_of(conversation)
        if isinstance(made, NoGoal):
            entry = Entry(key=key, no_goal=made.reason)
        else:
            share = overlap(phrase(made.goal), user_texts(conversation))
            entry = Entry(key=key, annotation=made, overlap=share)
        self._places[key] = self._append(entry.model_dump_json(exclude_defaults=True))

    def finish(self, order: Iterable[str], *, keep: bool) -> Written:
        """Writes the goals in that order, and removes the journal unless it is kept for another run."""
        written = Written()
        try:
            with self.path.open("rb") as lines, atomic_writer(self.out) as stream:
                for key in order:
                    if key in self._places:
                        lines.seek(self._places[key])
                        self._write(lines.readline(), stream, written)
                if not written.goals:
                    reasons = ", ".join(f"{why} {count}" for why, count in written.rejected.most_common())
                    raise DataError(f"{self.out}: not written, no conversation got a goal ({reasons})")
        except OSError as error:
            kept = f"all that was done is kept in {self.path}"
            raise DataError(f"{self.out}: cannot be written ({error.strerror}); {kept}") from error
        if not keep:
            self.path.unlink(missing_ok=True)
        return written

    def _write(self, line: bytes, stream: IO[str], written: Written) -> None:
        entry = Entry.model_validate_json(line)
        if entry.annotation is None:
            written.rejected[entry.no_goal or ""] += 1
        else:
            stream.write(entry.annotation.model_dump_json(exclude_defaults=True) + "\n")
            written.goals += 1
            written.overlaps.append(entry.overlap)

    def _append(self, line: str) -> int:
        """Where the line begins."""
        data = line.encode() + b"\n"
        place = self._file.tell()
        try:
            written = self._file.write(data)
        except OSError as error:
            raise self._no_room(error.strerror, place) from error
        if written < len(data):
            raise self._no_room("No space left on device", place)
        return place

    def _no_room(self, reason: str | None, place: int) -> DataError:
        self._file.truncate(place)
        return DataError(f"{self.path}: {reason}; make room and run again to go on")

    def _read(self) -> None:
        """Notes where each line begins; the line being written when a run was killed is cut off."""
        place = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                if number == 1:
                    self._check_header(line)
                else:
                    self._places[self._key(line, number)] = place
                place += len(line)
        self._file.truncate(place)
        self._file.seek(place)
        if not place:
            self._append(self._header)

    def _check_header(self, line: bytes) -> None:
        if line.decode(errors="replace").rstrip("\n") != self._header:
            raise DataError(
                f"{self.path}: holds an interrupted run with other settings; repeat those to go on with it, "
                "or delete it"
            )

    def _key(self, line: bytes, number: int) -> str:
        try:
            return Entry.model_validate_json(line).key
        except ValidationError as error:
            raise DataError(f"{self.path}:{number}: damaged; delete that line to go on") from error
