"""A run directory: config.json first, then metrics.jsonl, samples.jsonl and what the run makes."""

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
"""What a run leaves that failed before its first result."""


class RunDir:
    """Refuses a directory that holds another config, naming the keys that differ: resuming means the same run.

    One in which nothing has come of the other config yet takes the new one.
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

    def keep(self, name: str, wanted: Callable[[Any], bool]) -> None:
        """Rewrites a file without the lines that are not wanted or were cut off by a kill, in one step."""
        file = self.path / name
        if file.is_file():
            kept = [line for _, line, value in whole_lines(file) if _is_wanted(value, wanted)]
            with atomic_writer(file) as stream:
                stream.writelines(f"{line}\n" for line in kept)


def _is_wanted(value: Any, wanted: Callable[[Any], bool]) -> bool:
    try:
        return wanted(value)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):  # not what we write there
        return False


def refuse_difference(path: str | Path, config: Config) -> None:
    """Raises ConfigError where `path` holds results of another config; writes nothing."""
    folder = Path(path)
    keys = _differing(folder, config) if (folder / CONFIG).is_file() else []
    if keys and any(has_come_of_it(folder)):
        raise ConfigError(
            f"{folder} holds a run with another config (differs in: {', '.join(keys)}); "
            "choose another out=… or restore those values to resume it"
        )


def has_come_of_it(folder: Path) -> Iterator[str]:
    """The names of a run's results so far."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        is_empty = entry.is_dir() and not any(entry.iterdir())
        if entry.name not in NOTHING_YET and not entry.name.startswith(".") and not is_empty:
            yield entry.name


def _differing(folder: Path, config: Config) -> list[str]:
    """The keys in which `config` is another than the one there; all where there is none."""
    resolved = config.model_dump(mode="json")
    if not (folder / CONFIG).is_file():
        return sorted(resolved)
    before = _completed(folder / CONFIG, config)
    return sorted(k for k in before.keys() | resolved.keys() if before.get(k) != resolved.get(k))


def _completed(existing: Path, config: Config) -> dict[str, Any]:
    """What was resolved then; a field added since has its default, which is how the run went."""
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
