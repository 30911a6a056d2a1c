"""Rows of JSON Lines and JSON files. A value that is not an object is counted, and reading continues."""

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
"""Place of a record, for error messages, and the record."""
ENDS_INSIDE = "the file ends inside the JSON"


@dataclass(frozen=True)
class MalformedRow:
    reason: str


def parse(text: bytes) -> dict[str, Any] | MalformedRow:
    try:
        value = msgspec.json.decode(text)
    except UnicodeDecodeError:
        return MalformedRow("not UTF-8")
    except (msgspec.MsgspecError, RecursionError) as error:
        # The standard library accepts lone surrogates, NaN and numbers of any length.
        value = _parse_leniently(text, "truncated JSON" if "truncated" in str(error) else "not JSON")
    if isinstance(value, MalformedRow):
        return value
    return value if isinstance(value, dict) else MalformedRow("not an object")


def _parse_leniently(text: bytes, reason: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return MalformedRow("not UTF-8")
    except RecursionError:
        return MalformedRow("nested too deeply")
    except ValueError:
        return MalformedRow(reason)


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
            row = MalformedRow("record too large") if line is None else parse(line)
            if isinstance(row, MalformedRow):
                report.reject(row.reason, place)
                if row.reason == "truncated JSON" and not ended:
                    cut_off = stream.size - len(line or b"")
                    record_break(
                        report, name, ENDS_INSIDE, byte=cut_off, of_bytes=stream.size, records=records
                    )
            else:
                yield place, row
            records += 1
        if stream.error:
            record_break(report, name, stream.error, byte=stream.size, of_bytes=stream.size, records=records)


def value_rows(file: Path, name: str, report: SourceReport, unit: str) -> Iterator[Row]:
    with open_bytes(file) as opened:
        stream = ByteStream(opened)
        values, number = JsonValues(stream), 0
        for number, text in enumerate(values, start=1):
            report.counts[unit] += 1
            row = parse(text)
            if isinstance(row, MalformedRow):
                report.reject(row.reason, f"{name}:record {number}")
            else:
                yield f"{name}:record {number}", row
        if values.broke_at is not None:
            offset, error = values.broke_at, stream.error or ENDS_INSIDE
            record_break(report, name, error, byte=offset, of_bytes=stream.size, records=number)


def json_rows(file: Path, name: str, report: SourceReport, unit: str) -> Iterator[Row]:
    """Yields the rows of a `.json` file: an array of records, one record, or JSON Lines."""
    with open_bytes(file) as opened:
        head = ByteStream(opened).read().removeprefix(BOM).lstrip()
    first_line = head.partition(b"\n")[0]
    by_line = not head.startswith((b"[", b"{")) or isinstance(parse(first_line), dict)
    yield from (line_rows if by_line else value_rows)(file, name, report, unit)


def record_break(report: SourceReport, name: str, error: str, **position: int) -> None:
    """Records where the first broken file stopped, and the number of broken files."""
    if report.strict:
        position_text = ", ".join(f"{unit} {number}" for unit, number in position.items())
        raise DataError(f"{name}: breaks off at {position_text} ({error})")
    stopped = report.stopped or {"file": name, "error": error, **position, "files": 0}
    report.stopped = stopped | {"files": stopped["files"] + 1}


def files_broken_off(report: SourceReport) -> int:
    return int(report.stopped["files"]) if report.stopped else 0
