"""SimulatorArena: people write a document or solve maths with an assistant, then rate it. Test only.

`{id, task, messages, meta}`, or the annotation files with `user_queries` and `ai_responses`, whose records
get the same ids by their order in the file; only the latter tell the worker. People say why they stopped,
so ends are theirs, except after technical trouble. Maths sessions may run over two problems.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources.corpus import Corpus, row_by_row
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
    said, answered = row.get("user_queries"), row.get("ai_responses")
    if not isinstance(said, list) or not isinstance(answered, list):
        return "no `user_queries` and `ai_responses` lists"
    if len(said) != len(answered):
        return "queries and responses do not pair"
    pairs = zip(said, answered, strict=True)
    roles = (("user", "assistant") for _ in said)
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
    why = str((meta or row).get("why_stop") or "")
    return "unknown" if TROUBLE in why else "user"


SIMULATORARENA = Corpus("simulatorarena", recognises, row_by_row(_chat), name="simulatorarena")
