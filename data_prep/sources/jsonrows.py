"""Objects of JSON Lines and JSON files. What is no object is counted, and reading goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from data_prep.raw_chats import SourceReport
from data_prep.sources.streams import BOM, ByteStream, JsonValues, lines, open_bytes
from usersim.errors import DataError

Row = tuple[str, dict[str, Any]]
"""The place to name in a complaint, and the record."""
ENDS_INSIDE = "the file ends inside the JSON"


@dataclass(frozen=True)
class Bad:
    reason: str


def parse(text: bytes) -> dict[str, Any] | Bad:
    try:
        value = msgspec.json.decode(text)
    except UnicodeDecodeError:
        return Bad("not UTF-8")
    except (msgspec.MsgspecError, RecursionError) as error:
        # The standard library accepts lone surrogates, NaN and numbers of any length.
        value = _parse_slowly(text, "truncated JSON" if "truncated" in str(error) else "not JSON")
    if isinstance(value, Bad):
        return value
    return value if isinstance(value, dict) else Bad("not an object")


def _parse_slowly(text: bytes, reason: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Bad("not UTF-8")
    except RecursionError:
        return Bad("nested too deeply")
    except ValueError:
        return Bad(reason)


def line_rows(file: Path, name: str, report: SourceReport, unit: str) -> Iterator[Row]:
    with open_bytes(file) as opened:
        stream, records = ByteStream(opened), 0
        for number, (line, ended) in enumerate(lines(stream), start=1):
            if line is not None and (not line or line.isspace()):
                continue
            if stream.error and not ended:
                break
            place = f"{name}:{number}"
            report.counts[unit] += 1
            row = Bad("record too large") if line is None else parse(line)
            if isinstance(row, Bad):
                report.reject(row.reason, place)
                if row.reason == "truncated JSON" and not ended:
                    cut_off = stream.size - len(line or b"")
                    broke_off(report, name, ENDS_INSIDE, byte=cut_off, of_bytes=stream.size, records=records)
            else:
                yield place, row
            records += 1
        if stream.error:
            broke_off(report, name, stream.error, byte=stream.size, of_bytes=stream.size, records=records)


def value_rows(file: Path, name: str, report: SourceReport, unit: str) -> Iterator[Row]:
    with open_bytes(file) as opened:
        stream = ByteStream(opened)
        values, number = JsonValues(stream), 0
        for number, text in enumerate(values, start=1):
            report.counts[unit] += 1
            row = parse(text)
            if isinstance(row, Bad):
                report.reject(row.reason, f"{name}:record {number}")
            else:
                yield f"{name}:record {number}", row
        if values.broke_at is not None:
            at, error = values.broke_at, stream.error or ENDS_INSIDE
            broke_off(report, name, error, byte=at, of_bytes=stream.size, records=number)


def json_rows(file: Path, name: str, report: SourceReport, unit: str) -> Iterator[Row]:
    """`.json` is an array of records, one record, or JSON Lines under another name."""
    with open_bytes(file) as opened:
        head = ByteStream(opened).read().removeprefix(BOM).lstrip()
    first_line = head.partition(b"\n")[0]
    by_line = not head.startswith((b"[", b"{")) or isinstance(parse(first_line), dict)
    yield from (line_rows if by_line else value_rows)(file, name, report, unit)


def broke_off(report: SourceReport, name: str, error: str, **where: int) -> None:
    """Writes down where the first broken file stopped, and how many did."""
    if report.strict:
        at = ", ".join(f"{unit} {number}" for unit, number in where.items())
        raise DataError(f"{name}: breaks off at {at} ({error})")
    stopped = report.stopped or {"file": name, "error": error, **where, "files": 0}
    report.stopped = stopped | {"files": stopped["files"] + 1}


def files_broken_off(report: SourceReport) -> int:
    return int(report.stopped["files"]) if report.stopped else 0
