"""A run directory: config.json first, then metrics.jsonl, samples.jsonl and what the run makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from usersim.config import Config
from usersim.errors import ConfigError
from usersim.records import write_json
from usersim.types import Record


class RunDir:
    """Refuses a directory that holds another config, naming the keys that differ: resuming means the same run."""

    def __init__(self, path: str | Path, config: Config) -> None:
        self.path = Path(path)
        resolved = config.model_dump(mode="json")
        existing = self.path / "config.json"
        if existing.is_file():
            _refuse_difference(existing, resolved)
        else:
            write_json(existing, resolved)

    def metric(self, **values: Any) -> None:
        self._append("metrics.jsonl", json.dumps(values, ensure_ascii=False))

    def sample(self, record: Record) -> None:
        self._append("samples.jsonl", record.model_dump_json(exclude_defaults=True))

    def _append(self, name: str, line: str) -> None:
        with (self.path / name).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def _refuse_difference(existing: Path, resolved: dict[str, Any]) -> None:
    before = json.loads(existing.read_text(encoding="utf-8"))
    keys = sorted(k for k in before.keys() | resolved.keys() if before.get(k) != resolved.get(k))
    if keys:
        raise ConfigError(
            f"{existing.parent} holds a run with another config (differs in: {', '.join(keys)}); "
            "choose another out=… or restore those values to resume it"
        )
