"""Rows of JSON Lines, JSON arrays and Parquet files, each with the place to name in a complaint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usersim.errors import DataError
from usersim.records import read_jsonl

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
SEPARATOR = re.compile(r"[\s,]*")


def expand(path: Path) -> list[Path]:
    """The file itself, or the data files of a directory (sharded corpora) in name order."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        if not files:
            raise DataError(f"{path}: no {', '.join(SUFFIXES)} file in it")
        return files
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path}: expected one of {', '.join(SUFFIXES)}")
    return [path]


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    for file in expand(path):
        if file.suffix == ".parquet":
            yield from _parquet_rows(file)
        elif file.suffix == ".json":
            yield from _json_rows(file)
        else:
            for number, row in read_jsonl(file):
                yield f"{file}:{number}", row


def _parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}:{number}", row
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from error


def _json_rows(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected a JSON array of chats")
    for number, row in enumerate(rows, start=1):
        yield f"{file}:record {number}", row


def array_items(text: str, stopped: dict[str, Any]) -> Iterator[Any]:
    """Items of a JSON array that may break off anywhere; where it did is written into `stopped`."""
    decoder = json.JSONDecoder()
    start = text.find("[")
    position, count = start + 1, 0
    while start >= 0:
        gap = SEPARATOR.match(text, position)
        position = gap.end() if gap else position
        if text.startswith("]", position):
            return
        try:
            item, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            stopped.update(char=position, of_chars=len(text), records=count, error=error.msg)
            return
        count += 1
        yield item
    stopped.update(char=0, of_chars=len(text), records=0, error="no JSON array")
