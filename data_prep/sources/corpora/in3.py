"""IN3 dialogues: a person answers an assistant's clarifying questions about a given task.

The assistant stops with a summary when it believes that it knows enough. No person chose an end, so all are cut. The
first user message is the task of the benchmark, shared by several dialogues; the flag `given_opening` marks that.
"""

from __future__ import annotations

from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.messages import read_message_row


def recognises(row: dict[str, Any]) -> bool:
    return "messages" in row and isinstance(row.get("vague"), bool)


def _chat(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    chat = read_message_row(row, place, report, ended_by="cut")
    return (
        chat if isinstance(chat, str) else chat.model_copy(update={"flags": (*chat.flags, "given_opening")})
    )


IN3 = ChatFormat("in3", recognises, row_by_row(_chat), name="in3")
