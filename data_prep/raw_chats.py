"""Raw chats as a corpus has them, and the report of records that could not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from usersim.errors import DataError
from usersim.types import EndedBy, Record

RawRole = Literal["system", "user", "assistant", "tool"]

ROLES: dict[str, RawRole] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""Spellings of roles in the corpora, in lower case."""

EXAMPLES_KEPT = 20
"""Malformed records listed in the report."""


def well_formed(text: str) -> str:
    """Returns `text` with lone surrogates (half of an escaped emoji) replaced by �."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def writable(value: Any) -> Any:
    """Returns a JSON value whose strings are all valid Unicode; file names may hold other bytes."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {writable(key): writable(item) for key, item in value.items()}
    return [writable(item) for item in value] if isinstance(value, list | tuple) else value


Text = Annotated[str, BeforeValidator(well_formed)]


class RawTurn(Record):
    role: RawRole
    text: Text


class RawChat(Record):
    id: Text
    source: str
    place: str
    """`path:line`, for error messages."""
    turns: tuple[RawTurn, ...]
    system: str | None = None
    user_key: str | None = None
    """Key of the person, where the corpus has one (WildChat: hashed IP and country). Only its digest is written."""
    language: str | None = None
    """ISO 639 code, from the corpus or detected."""
    flags: tuple[str, ...] = ()
    """Labels of the corpus: `toxic`, `redacted` … They are metadata; --drop-flagged filters by them."""
    ended_by: EndedBy = "unknown"
    from_page: bool = False
    """The chat comes from a web page, so the artefact stage cleans it."""

    @property
    def user_texts(self) -> tuple[str, ...]:
        return tuple(turn.text for turn in self.turns if turn.role == "user")


@dataclass
class SourceReport:
    """Counts of one source, updated while it is read."""

    name: str
    spec: str
    strict: bool = False
    """True raises DataError at a malformed record; False counts it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Records by unit of the corpus: rows, chunks, ids …"""
    malformed: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """The first malformed records, as `path:line: reason`."""
    stopped: dict[str, Any] | None = None
    """File and position where reading broke off; None after a complete read."""

    def reject(self, reason: str, place: str) -> None:
        """Counts a malformed record; raises DataError in strict mode."""
        if self.strict:
            raise DataError(f"{place}: {reason}")
        self.malformed[reason] += 1
        if len(self.examples) < EXAMPLES_KEPT:
            self.examples.append(f"{place}: {reason}")

    def summary(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "spec": self.spec,
            "counts": dict(self.counts),
            "malformed": dict(self.malformed.most_common()),
            "malformed_examples": self.examples,
            "stopped": self.stopped,
        }


@dataclass
class Source:
    report: SourceReport
    chats: Iterator[RawChat]
