"""What a source yields: a chat as its corpus has it, and the account of what could not be read."""

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
"""Every spelling of a role that the corpora use, in small letters."""

EXAMPLES_KEPT = 20


def well_formed(text: str) -> str:
    """Half of an emoji, escaped into JSON as a lone surrogate, is no Unicode text: it becomes �."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def writable(value: Any) -> Any:
    """JSON whose strings are all Unicode text: a file name may hold bytes that are none."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {writable(key): writable(one) for key, one in value.items()}
    return [writable(one) for one in value] if isinstance(value, list | tuple) else value


Text = Annotated[str, BeforeValidator(well_formed)]


class RawTurn(Record):
    role: RawRole
    text: Text


class RawChat(Record):
    id: Text
    source: str
    place: str
    """path:line, for complaints."""
    turns: tuple[RawTurn, ...]
    system: str | None = None
    user_key: str | None = None
    """Who wrote it, where the corpus says so (WildChat: hashed IP and country); only its digest is written out."""
    language: str | None = None
    """ISO 639 code, from the corpus or detected."""
    flags: tuple[str, ...] = ()
    """What the corpus says about the text: `toxic`, `redacted` …; metadata, filtered by a switch."""
    ended_by: EndedBy = "unknown"
    from_page: bool = False
    """Copied from a web page, or typed into one: what `artefacts` looks for may be in it."""

    @property
    def user_texts(self) -> tuple[str, ...]:
        return tuple(turn.text for turn in self.turns if turn.role == "user")


@dataclass
class SourceReport:
    """Filled while the source is read."""

    name: str
    spec: str
    strict: bool = False
    """A malformed record is an error instead of a count."""
    counts: Counter[str] = field(default_factory=Counter)
    """Units of the corpus: rows, chunks, ids …"""
    malformed: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    """The first malformed records, as `path:line: reason`."""
    stopped: dict[str, Any] | None = None
    """Where a file broke off; None when it was read to its end."""

    def reject(self, reason: str, place: str) -> None:
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
