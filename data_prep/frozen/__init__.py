"""Test conversations that stay test whatever else changes: lists of ids, packaged or a team's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from usersim.errors import ConfigError
from usersim.storage.records import read_jsonl


def frozen_ids(name_or_path: str | Path) -> frozenset[str]:
    """A packaged list by its name, a file of one id a line, or a prepared JSONL."""
    packaged = _packaged()
    if str(name_or_path) in packaged:
        return _lines((files(__name__) / f"{name_or_path}.txt").read_text(encoding="utf-8"))
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file, and no frozen list of that name (there are {', '.join(packaged)})"
        )
    try:
        ids = _of_records(path) if path.suffix == ".jsonl" else _lines(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of ids ({error})") from error
    if not ids:
        raise ConfigError(f"{path}: holds no id; give one id a line, or conversations as JSON Lines")
    return ids


def _packaged() -> list[str]:
    return sorted(
        each.name.removesuffix(".txt") for each in files(__name__).iterdir() if each.name.endswith(".txt")
    )


def _lines(text: str) -> frozenset[str]:
    lines = (line.strip() for line in text.split("\n"))
    return frozenset(line for line in lines if line and not line.startswith("#"))


def _of_records(path: Path) -> frozenset[str]:
    ids = set()
    for number, row in read_jsonl(path):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise ConfigError(f"{path}:{number}: no `id`")
        ids.add(row["id"])
    return frozenset(ids)
