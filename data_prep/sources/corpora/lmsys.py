"""LMSYS-Chat-1M: a million chats with 25 models on one public page, without keys of people.

`redacted` marks chats whose names were replaced by NAME_1 and the like. Moderation has one verdict per message; a
flagged message makes the chat `toxic`.
"""

from __future__ import annotations

from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.languages import language_code
from data_prep.sources.turns import read_flags, read_key, read_turns


def recognises(row: dict[str, Any]) -> bool:
    return (
        isinstance(row.get("conversation"), list) and {"conversation_id", "openai_moderation"} <= row.keys()
    )


def _chat(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    turns = read_turns(row.get("conversation"), field="conversation")
    if isinstance(turns, str):
        return turns
    id_ = read_key(row, "conversation_id")
    if id_ is None:
        return "no conversation_id"
    return RawChat(
        id=id_,
        source=report.name,
        place=place,
        turns=turns,
        language=language_code(row.get("language")),
        flags=read_flags(row),
        ended_by="user",
    )


LMSYS = ChatFormat("lmsys", recognises, row_by_row(_chat), name="lmsys", from_pages=True)
