"""A run directory: config.json first, then metrics.jsonl, samples.jsonl and what the run makes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usersim.config import Config
from usersim.errors import BackendError, ConfigError
from usersim.records import atomic_writer, write_json
from usersim.types import Record

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"


class RunDir:
    """Refuses a directory that holds another config, naming the keys that differ: resuming means the same run."""

    def __init__(self, path: str | Path, config: Config) -> None:
        self.path = Path(path)
        existing = self.path / "config.json"
        if existing.is_file():
            _refuse_difference(existing, config)
        else:
            write_json(existing, config.model_dump(mode="json"))

    def metric(self, **values: Any) -> None:
        self._append(METRICS, json.dumps(values, ensure_ascii=False))

    def sample(self, record: Record) -> None:
        self._append(SAMPLES, record.model_dump_json(exclude_defaults=True))

    def metrics(self) -> list[dict[str, Any]]:
        """What was logged; a line that a kill cut off is left out."""
        lines = _lines(self.path / METRICS)
        return [json.loads(line) for line in lines if _is_wanted(line, lambda value: isinstance(value, dict))]

    def keep(self, name: str, wanted: Callable[[Any], bool]) -> None:
        """Rewrites a file without the lines that are not wanted or were cut off by a kill, in one step."""
        file = self.path / name
        if file.is_file():
            kept = [line for line in _lines(file) if _is_wanted(line, wanted)]
            with atomic_writer(file) as stream:
                stream.writelines(f"{line}\n" for line in kept)

    def _append(self, name: str, line: str) -> None:
        try:
            with (self.path / name).open("ab+") as stream:
                end = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, end - 1))
                torn = end and stream.read(1) != b"\n"  # the next line must not join one that a kill cut off
                stream.write(("\n" if torn else "").encode() + line.encode() + b"\n")
        except OSError as error:
            raise BackendError(
                f"{self.path / name} cannot be written ({error.strerror}); make room and run the same command again"
            ) from error


def _lines(file: Path) -> list[str]:
    """Not splitlines(): texts hold U+2028, which ends no line of JSON Lines. A cut character is no reason to stop."""
    content = file.read_bytes().decode("utf-8", "replace") if file.is_file() else ""
    return [line for line in content.split("\n") if line]


def _is_wanted(line: str, wanted: Callable[[Any], bool]) -> bool:
    try:
        return wanted(json.loads(line))
    except (ValueError, TypeError, KeyError):
        return False


def _refuse_difference(existing: Path, config: Config) -> None:
    before, resolved = _completed(existing, config), config.model_dump(mode="json")
    keys = sorted(k for k in before.keys() | resolved.keys() if before.get(k) != resolved.get(k))
    if keys:
        raise ConfigError(
            f"{existing.parent} holds a run with another config (differs in: {', '.join(keys)}); "
            "choose another out=… or restore those values to resume it"
        )


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
