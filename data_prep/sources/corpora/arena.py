"""Chatbot Arena: one person writes to two models at once and votes.

Both sides hold the same user messages, so only side `a` is read. From the second turn on, the person answers two
replies, of which the record shows one. The person ends the chat by voting, but may have gone on outside the record.
Files of `{id, messages}`, with one side already selected, are read too. In the copy used here, 29 ids stand for two
different chats each; the duplicate stage keeps the first. `lang_guess` is a guess from the text and is not used.
"""

from __future__ import annotations

from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.languages import language_code
from data_prep.sources.turns import read_flags, read_key, read_turns

SIDE = "conversation_a"


def recognises(row: dict[str, Any]) -> bool:
    return "conversation_a" in row and "conversation_b" in row


def _chat(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    field = SIDE if SIDE in row else "messages"
    turns = read_turns(row.get(field), field=field)
    if isinstance(turns, str):
        return turns
    id_ = read_key(row, "question_id", "id", "evaluation_session_id")
    if id_ is None:
        return "no question_id or id"
    return RawChat(
        id=id_,
        source=report.name,
        place=place,
        turns=turns,
        user_key=read_key(row, "judge", "judge_hash"),
        language=language_code(row.get("language")),
        flags=read_flags(row),
        ended_by="user",
    )


ARENA = ChatFormat("arena", recognises, row_by_row(_chat), name="chatbot_arena", from_pages=True)
