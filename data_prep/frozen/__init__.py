"""Frozen test splits: packaged lists of conversation ids, or a file of ids."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from usersim.errors import ConfigError
from usersim.storage.records import read_jsonl


def frozen_ids(name_or_path: str | Path) -> frozenset[str]:
    """Returns the ids of a frozen list.

    Args:
        name_or_path: name of a packaged list, a file with one id a line, or a prepared JSONL.

    Raises:
        ConfigError: no such list or file, or no id in it.
    """
    names = _packaged_lists()
    if str(name_or_path) in names:
        return _ids_of_lines((files(__name__) / f"{name_or_path}.txt").read_text(encoding="utf-8"))
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file, and no frozen list of that name (there are {', '.join(names)})"
        )
    try:
        ids = (
            _ids_of_records(path)
            if path.suffix == ".jsonl"
            else _ids_of_lines(path.read_text(encoding="utf-8"))
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of ids ({error})") from error
    if not ids:
        raise ConfigError(f"{path}: holds no id; give one id a line, or conversations as JSON Lines")
    return ids


def _packaged_lists() -> list[str]:
    return sorted(
        entry.name.removesuffix(".txt") for entry in files(__name__).iterdir() if entry.name.endswith(".txt")
    )


def _ids_of_lines(text: str) -> frozenset[str]:
    lines = (line.strip() for line in text.split("\n"))
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _ids_of_records(path: Path) -> frozenset[str]:
    ids = set()
    for number, row in read_jsonl(path):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise ConfigError(f"{path}:{number}: no `id` of type string")
        ids.add(row["id"])
    return frozenset(ids)
