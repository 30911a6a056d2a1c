"""Reader of plain logs: `{id?, messages: [{role, content}]}` or `{id?, conversations: [{from, value}]}`.

Optional fields are `system`, the person as `user_key`, `user_id` or `user`, `language`, and the flags `toxic`,
`redacted` and `flags`. Files are JSON Lines, JSON or Parquet, gzipped or not, or a folder of them.
"""

from __future__ import annotations

from typing import Any, Literal

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.languages import language_code
from data_prep.sources.turns import read_flags, read_key, read_turns, repaired
from usersim.types import EndedBy

Ends = Literal["natural", "cut"]

FIELDS = ("messages", "conversations", "conversation")


def recognises(row: dict[str, Any]) -> bool:
    return any(field in row for field in FIELDS)


def read_message_row(
    row: dict[str, Any], place: str, report: SourceReport, *, ended_by: EndedBy = "user"
) -> RawChat | str:
    field = next((field for field in FIELDS if row.get(field) is not None), "messages")
    turns = read_turns(row.get(field), field=field)
    if isinstance(turns, str):
        return turns
    system = row.get("system")
    return RawChat(
        id=read_key(row, "id", "conversation_id") or f"{report.name}-{report.counts['rows']}",
        source=report.name,
        place=place,
        turns=turns,
        system=repaired(system) if isinstance(system, str) and system.strip() else None,
        user_key=read_key(row, "user_key", "user_id", "user"),
        language=language_code(row.get("language")),
        flags=read_flags(row),
        ended_by=ended_by,
    )


MESSAGES = ChatFormat("messages", recognises, row_by_row(read_message_row))
