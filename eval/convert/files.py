"""Readers of JSON and JSON Lines files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usersim.errors import DataError
from usersim.storage.records import read_jsonl


def read_json(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not JSON ({error})") from error


def rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yields (name, value) of the lines of JSON Lines, the items of a JSON list, or the values of a JSON object of
    objects."""
    if path.suffix == ".json":
        document = read_json(path)
        if isinstance(document, dict):
            yield from document.items()
        elif isinstance(document, list):
            yield from ((str(index), item) for index, item in enumerate(document, start=1))
        else:
            raise DataError(f"{path}: needs a list or an object of conversations")
    else:
        yield from ((str(number), value) for number, value in read_jsonl(path))
