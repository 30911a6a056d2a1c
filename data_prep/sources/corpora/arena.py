"""Chatbot Arena: one person writes to two models at once and votes.

Both sides hold the same user messages, so only side `a` is read, once. From the second turn on the person
answers two replies of which the record shows one. The end is the vote: theirs, though they may have gone on
talking outside the record. Files of `{id, messages}` (one side already taken) are read too; in the copy
known to us 29 ids stand for two different chats each, of which the duplicate stage keeps the first, and
`lang_guess` is somebody's guess from the text: our own is made instead.
"""

from __future__ import annotations

from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.corpus import Corpus, row_by_row
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


ARENA = Corpus("arena", recognises, row_by_row(_chat), name="chatbot_arena", from_pages=True)
