"""A run directory: config.json first, then metrics.jsonl, samples.jsonl and what the run makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usersim.config import Config
from usersim.errors import ConfigError
from usersim.records import append_line, atomic_writer, whole_lines, write_json
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
        append_line(self.path / METRICS, json.dumps(values, ensure_ascii=False))

    def sample(self, record: Record) -> None:
        append_line(self.path / SAMPLES, record.model_dump_json(exclude_defaults=True))

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
    before: dict[str, Any] = json.loads(existing.read_text(encoding="utf-8"))
    try:
        return type(config).model_validate(before).model_dump(mode="json")
    except ValidationError:
        return before
