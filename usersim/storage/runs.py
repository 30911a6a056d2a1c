"""Run directory: config.json, metrics.jsonl, samples.jsonl and the results of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usersim.errors import ConfigError
from usersim.storage.records import append_line, atomic_writer, whole_lines, write_json
from usersim.storage.toml_config import Config
from usersim.types import Record

CONFIG, BASE = "config.json", "base.json"
METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
NOTHING_YET = {CONFIG, BASE, "wandb", "wandb-id"}
"""Entries that a run writes before its first result."""


class RunDir:
    """Directory of one run, which can be resumed with the same config only.

    Raises ConfigError naming the keys that differ if the directory holds results of another config. Without results the
    new config replaces the old one.
    """

    def __init__(self, path: str | Path, config: Config) -> None:
        self.path = Path(path)
        refuse_difference(path, config)
        if not _differing(self.path, config):
            return
        (self.path / BASE).unlink(missing_ok=True)
        write_json(self.path / CONFIG, config.model_dump(mode="json"))

    def metric(self, **values: Any) -> None:
        self._append(METRICS, json.dumps(values, ensure_ascii=False))

    def sample(self, record: Record) -> None:
        self._append(SAMPLES, record.model_dump_json(exclude_defaults=True))

    def _append(self, name: str, line: str) -> None:
        append_line(self.path / name, line)

    def metrics(self) -> list[dict[str, Any]]:
        return [values for _, _, values in whole_lines(self.path / METRICS) if isinstance(values, dict)]

    def keep(self, name: str, is_wanted: Callable[[Any], bool]) -> None:
        """Rewrites a file atomically, without unwanted lines and lines cut off by a kill."""
        file = self.path / name
        if file.is_file():
            lines = [line for _, line, value in whole_lines(file) if _is_wanted(value, is_wanted)]
            with atomic_writer(file) as stream:
                stream.writelines(f"{line}\n" for line in lines)


def _is_wanted(value: Any, is_wanted: Callable[[Any], bool]) -> bool:
    try:
        return is_wanted(value)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):  # not a line that we write
        return False


def refuse_difference(path: str | Path, config: Config) -> None:
    """Raises ConfigError if `path` holds results of another config. Writes nothing."""
    folder = Path(path)
    keys = _differing(folder, config) if (folder / CONFIG).is_file() else []
    if keys and any(has_come_of_it(folder)):
        raise ConfigError(
            f"{folder} holds a run with another config (differs in: {', '.join(keys)}); "
            "choose another out=… or restore those values to resume it"
        )


def has_come_of_it(folder: Path) -> Iterator[str]:
    """Yields the names of a run's results so far."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        is_empty = entry.is_dir() and not any(entry.iterdir())
        if entry.name not in NOTHING_YET and not entry.name.startswith(".") and not is_empty:
            yield entry.name


def _differing(folder: Path, config: Config) -> list[str]:
    """Returns the keys that differ between `config` and the stored one; all keys if none is stored."""
    resolved = config.model_dump(mode="json")
    if not (folder / CONFIG).is_file():
        return sorted(resolved)
    before = _completed(folder / CONFIG, config)
    return sorted(k for k in before.keys() | resolved.keys() if before.get(k) != resolved.get(k))


def _completed(existing: Path, config: Config) -> dict[str, Any]:
    """Returns the stored config, with defaults for fields added since, since the run used them."""
    try:
        before: dict[str, Any] = json.loads(existing.read_bytes())
    except ValueError as error:
        raise ConfigError(
            f"{existing} is damaged; choose another out=…, or delete it to start over there"
        ) from error
    try:
        return type(config).model_validate(before).model_dump(mode="json")
    except ValidationError:
        return before
