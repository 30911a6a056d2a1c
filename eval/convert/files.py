"""JSON and JSON Lines, whichever a file holds."""

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
    """(name, value) of the lines of JSON Lines, the items of a JSON list or the values of a JSON object of objects."""
    if path.suffix == ".json":
        whole = read_json(path)
        if isinstance(whole, dict):
            yield from whole.items()
        elif isinstance(whole, list):
            yield from ((str(place), item) for place, item in enumerate(whole, start=1))
        else:
            raise DataError(f"{path}: needs a list or an object of conversations")
    else:
        yield from ((str(number), value) for number, value in read_jsonl(path))
