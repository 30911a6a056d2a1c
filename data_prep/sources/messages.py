"""Any log of `{id?, messages: [{role, content}]}` in JSON Lines, JSON or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from data_prep.chats import ROLES, RawChat, RawTurn, Source, SourceReport
from data_prep.sources.rows import expand, read_rows
from usersim.errors import DataError
from usersim.types import EndedBy

Ends = Literal["natural", "cut"]


def open_messages(path: Path, *, ends: Ends = "natural", name: str | None = None) -> Source:
    expand(path)
    report = SourceReport(name=name or path.name.split(".")[0], spec=str(path))
    return Source(report, _chats(path, report, "user" if ends == "natural" else "cut"))


def _chats(path: Path, report: SourceReport, ended_by: EndedBy) -> Iterator[RawChat]:
    for place, row in read_rows(path):
        report.counts["rows"] += 1
        if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
            raise DataError(f"{place}: no `messages` list")
        if not row["messages"]:
            report.reject("no messages", place)
            continue
        id_ = row.get("id")
        yield RawChat(
            id=str(id_) if id_ not in (None, "") else f"{report.name}-{report.counts['rows']}",
            source=report.name,
            place=place,
            turns=tuple(_turn(message, place) for message in row["messages"]),
            ended_by=ended_by,
        )


def _turn(message: Any, place: str) -> RawTurn:
    if not isinstance(message, dict):
        raise DataError(f"{place}: a message is not an object")
    role = ROLES.get(str(message.get("role")))
    if role is None:
        raise DataError(f"{place}: role {message.get('role')!r}; expected user, assistant or system")
    content = message.get("content")
    if content is None and role != "user":
        content = ""  # an assistant message that is only a tool call
    if isinstance(content, list):
        content = _text_parts(content)
    if not isinstance(content, str):
        raise DataError(f"{place}: content of a {role} message is not text")
    return RawTurn(role=role, text=content)


def _text_parts(parts: list[Any]) -> str | None:
    """OpenAI's list form; None where a part is not text: what an image says cannot be kept."""
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    strings = [text for text in texts if isinstance(text, str)]
    return "\n".join(strings) if len(strings) == len(parts) else None
