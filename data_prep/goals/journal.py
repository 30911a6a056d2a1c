"""Journal of finished conversations, one line each beside the output; a run can stop at any byte."""

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
    """Share of the goal's n-grams that the person wrote."""


@dataclass
class JournalSummary:
    goals: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    overlaps: array[float] = field(default_factory=lambda: array("f"))


def key_of(conversation: Conversation) -> str:
    """Returns the journal key, a hash of id and text; another corpus may use the same ids."""
    parts = (conversation.id, *(turn.text for turn in conversation.turns))
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:24]


class GoalJournal:
    """Journal of one run, locked while open. Memory is one offset per conversation."""

    def __init__(self, out: Path, settings: dict[str, object]) -> None:
        self.out, self.path = out, out.with_name(f"{out.name}.partial")
        self._header = json.dumps(settings, sort_keys=True)
        self._offsets: dict[str, int] = {}

    def __enter__(self) -> GoalJournal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a write that a full disk refuses must not be retried on close.
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
        if not self._offsets:
            self.path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, key: str) -> bool:
        return key in self._offsets

    def add(self, conversation: Conversation, result: Annotation | NoGoal) -> None:
        key = key_of(conversation)
        if isinstance(result, NoGoal):
            entry = Entry(key=key, no_goal=result.reason)
        else:
            share = overlap(phrase(result.goal), user_texts(conversation))
            entry = Entry(key=key, annotation=result, overlap=share)
        self._offsets[key] = self._append(entry.model_dump_json(exclude_defaults=True))

    def finish(self, order: Iterable[str], *, keep: bool) -> JournalSummary:
        """Writes the goals in the given order; removes the journal unless `keep`."""
        summary = JournalSummary()
        try:
            with self.path.open("rb") as lines, atomic_writer(self.out) as stream:
                for key in order:
                    if key in self._offsets:
                        lines.seek(self._offsets[key])
                        self._write(lines.readline(), stream, summary)
                if not summary.goals:
                    reasons = ", ".join(f"{why} {count}" for why, count in summary.rejected.most_common())
                    raise DataError(f"{self.out}: not written, no conversation got a goal ({reasons})")
        except OSError as error:
            note = f"finished goals are in {self.path}"
            raise DataError(f"{self.out}: cannot be written ({error.strerror}); {note}") from error
        if not keep:
            self.path.unlink(missing_ok=True)
        return summary

    def _write(self, line: bytes, stream: IO[str], summary: JournalSummary) -> None:
        entry = Entry.model_validate_json(line)
        if entry.annotation is None:
            summary.rejected[entry.no_goal or ""] += 1
        else:
            stream.write(entry.annotation.model_dump_json(exclude_defaults=True) + "\n")
            summary.goals += 1
            summary.overlaps.append(entry.overlap)

    def _append(self, line: str) -> int:
        """Appends a line and returns its offset."""
        data = line.encode() + b"\n"
        offset = self._file.tell()
        try:
            size = self._file.write(data)
        except OSError as error:
            raise self._write_error(error.strerror, offset) from error
        if size < len(data):
            raise self._write_error("No space left on device", offset)
        return offset

    def _write_error(self, reason: str | None, offset: int) -> DataError:
        self._file.truncate(offset)
        return DataError(f"{self.path}: {reason}; make room and run again to resume")

    def _read(self) -> None:
        """Reads the offset of each line; cuts off an unfinished last line."""
        offset = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                if number == 1:
                    self._check_header(line)
                else:
                    self._offsets[self._key(line, number)] = offset
                offset += len(line)
        self._file.truncate(offset)
        self._file.seek(offset)
        if not offset:
            self._append(self._header)

    def _check_header(self, line: bytes) -> None:
        if line.decode(errors="replace").rstrip("\n") != self._header:
            raise DataError(
                f"{self.path}: holds an interrupted run with other settings; repeat those to resume it, "
                "or delete it"
            )

    def _key(self, line: bytes, number: int) -> str:
        try:
            return Entry.model_validate_json(line).key
        except ValidationError as error:
            raise DataError(f"{self.path}:{number}: damaged; delete that line to resume") from error
