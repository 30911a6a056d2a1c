"""WildChat rows: `conversation`, the person's hashed IP and language; files or a `datasets` name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.chats import ROLES, RawChat, RawTurn, Source, SourceReport
from data_prep.sources.rows import SUFFIXES, expand, read_rows
from usersim.errors import DataError

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def open_wildchat(path_or_name: str, *, name: str | None = None) -> Source:
    path = Path(path_or_name)
    report = SourceReport(name=name or "wildchat", spec=path_or_name)
    if path.exists():
        expand(path)
        return Source(report, _chats(read_rows(path), report))
    if not HUB_NAME.fullmatch(path_or_name) or path_or_name.endswith(SUFFIXES):
        raise DataError(f"{path_or_name}: no such file, and not a datasets name (owner/name)")
    return Source(report, _chats(_hub_rows(path_or_name), report))


def _hub_rows(dataset: str) -> Iterator[tuple[str, Any]]:
    from datasets import load_dataset  # type: ignore[import-untyped]

    try:
        rows = load_dataset(dataset, split="train", streaming=True)
        for number, row in enumerate(rows, start=1):
            yield f"{dataset}:{number}", row
    except Exception as error:
        # datasets raises half a dozen unrelated classes for "not there" and "no network".
        raise DataError(f"{dataset}: cannot be loaded with datasets ({error})") from error


def _chats(rows: Iterator[tuple[str, Any]], report: SourceReport) -> Iterator[RawChat]:
    for place, row in rows:
        report.counts["rows"] += 1
        if not isinstance(row, dict) or not isinstance(row.get("conversation"), list):
            raise DataError(f"{place}: no `conversation` list; not a WildChat row")
        chat = _chat(row, place, report.name)
        if isinstance(chat, str):
            report.reject(chat, place)
        else:
            yield chat


def _chat(row: dict[str, Any], place: str, source: str) -> RawChat | str:
    turns: list[RawTurn] = []
    for message in row["conversation"]:
        role = ROLES.get(str(message.get("role"))) if isinstance(message, dict) else None
        if role is None or not isinstance(message.get("content"), str):
            return "message without known role and text"
        turns.append(RawTurn(role=role, text=message["content"]))
    if not turns:
        return "empty conversation"
    id_ = row.get("conversation_id") or row.get("conversation_hash")
    if not id_:
        return "no conversation_id or conversation_hash"
    return RawChat(
        id=str(id_),
        source=source,
        place=place,
        turns=tuple(turns),
        user_key=_person(row),
        language=_language(row.get("language")),
        ended_by="user",
    )


def _person(row: dict[str, Any]) -> str | None:
    """The hashed IP of the row, or of its first user message (WildChat keeps it there)."""
    rows = [row, *(m for m in row["conversation"] if m.get("role") == "user")]
    return next((str(found["hashed_ip"]) for found in rows if found.get("hashed_ip")), None)


def _language(name: Any) -> str | None:
    """`en` for English, `other` for any other named language; WildChat writes names, not codes."""
    if not isinstance(name, str) or not name.strip():
        return None
    return "en" if name.strip().lower() in ("english", "en") else "other"
