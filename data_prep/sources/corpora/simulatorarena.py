"""SimulatorArena: people write a document or solve maths with an assistant, then rate it. Test only.

Files are `{id, task, messages, meta}`, or the annotation files with `user_queries` and `ai_responses`. Records of the
latter get the same ids by their order in the file, and only they name the worker. People state why they stopped, so
ends are theirs, except after technical trouble. Maths sessions may cover two problems.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.turns import read_key, read_turns
from usersim.types import EndedBy

TASKS = ("document_creation", "math_tutoring")
TROUBLE = "technical"


def recognises(row: dict[str, Any]) -> bool:
    return {"user_queries", "ai_responses"} <= row.keys() or (
        {"messages", "meta"} <= row.keys() and row.get("task") in TASKS
    )


def _chat(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    messages = _paired(row) if "user_queries" in row else row.get("messages")
    if isinstance(messages, str):
        return messages
    turns = read_turns(messages)
    if isinstance(turns, str):
        return turns
    return RawChat(
        id=read_key(row, "id") or _id(row, place),
        source=report.name,
        place=place,
        turns=turns,
        user_key=read_key(row, "workerId"),
        ended_by=_ended_by(row),
    )


def _paired(row: dict[str, Any]) -> list[dict[str, Any]] | str:
    queries, responses = row.get("user_queries"), row.get("ai_responses")
    if not isinstance(queries, list) or not isinstance(responses, list):
        return "no `user_queries` and `ai_responses` lists"
    if len(queries) != len(responses):
        return "queries and responses do not pair"
    pairs = zip(queries, responses, strict=True)
    roles = (("user", "assistant") for _ in queries)
    return [
        {"role": role, "content": text}
        for role, text in zip(chain.from_iterable(roles), chain.from_iterable(pairs), strict=True)
    ]


def _id(row: dict[str, Any], place: str) -> str:
    task = TASKS["document_type" not in row]
    number = int("".join(filter(str.isdigit, place.rpartition(":")[2])) or 0)
    return f"simarena_{task}_{number - 1}"


def _ended_by(row: dict[str, Any]) -> EndedBy:
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else row
    reason = str((meta or row).get("why_stop") or "")
    return "unknown" if TROUBLE in reason else "user"


SIMULATORARENA = ChatFormat("simulatorarena", recognises, row_by_row(_chat), name="simulatorarena")
