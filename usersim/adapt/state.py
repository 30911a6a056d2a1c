"""State files of stages, with hashes of their config, inputs and outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from usersim.storage.records import write_json
from usersim.types import Record
from usersim.weights.default_model import file_hash

STATE = "state"
"""Folder of the state files in a run directory."""


class StageState(Record):
    """State of a stage: its version, config and inputs and, once done, its outputs."""

    stage: str
    status: Literal["started", "done"]
    version: str
    """Version of usersim."""
    config_sha256: str
    inputs: dict[str, str]
    """SHA-256 by file; version by package."""
    outputs: dict[str, str] = Field(default={})
    commands: tuple[str, ...] = ()
    left_out: str | None = None
    """Reason why its commands were not run."""
    seconds: float = 0.0
    """Run time over all sessions."""

    def changes_since(self, before: StageState) -> list[str]:
        """Returns the changes since an earlier state that make its result outdated."""
        changes = []
        if self.version != before.version:
            changes.append(f"usersim {before.version} → {self.version}")
        if self.config_sha256 != before.config_sha256:
            changes.append("its config")
        for name in sorted(self.inputs.keys() | before.inputs.keys()):
            if self.inputs.get(name) != before.inputs.get(name):
                changes.append(name)
        return changes


def config_hash(part: Any) -> str:
    """Returns the SHA-256 of a JSON-serialisable part of a config."""
    return hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()


class FileHashes:
    """Cached SHA-256 hashes of files. A file with unchanged size and modification time is not read again."""

    def __init__(self, cache: Path | None) -> None:
        """Loads hashes of earlier runs. `cache`: JSON file of hashes; None: in memory only."""
        self._cache = cache
        self._hashes: dict[str, list[Any]] = {}
        if cache is not None:
            try:
                self._hashes = json.loads(cache.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                self._hashes = {}

    def of(self, path: Path) -> str:
        """Returns the hash of a file; `missing` if there is none."""
        try:
            facts = path.stat()
        except OSError:
            return "missing"
        before = self._hashes.get(str(path))
        if before is not None and before[:2] == [facts.st_size, facts.st_mtime_ns]:
            return str(before[2])
        digest = file_hash(path)
        self._hashes[str(path)] = [facts.st_size, facts.st_mtime_ns, digest]
        return digest

    def of_all(self, paths: Iterable[Path]) -> dict[str, str]:
        return {str(path): self.of(path) for path in paths}

    def keep(self) -> None:
        if self._cache is not None:
            write_json(self._cache, self._hashes)


def state_file(run: Path, stage: str) -> Path:
    return run / STATE / f"{stage}.json"


def read_state(run: Path, stage: str) -> StageState | None:
    """Reads the state; None if the stage never ran or the file is damaged, so that it runs again."""
    try:
        return StageState.model_validate_json(state_file(run, stage).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_state(run: Path, state: StageState) -> None:
    write_json(state_file(run, state.stage), state.model_dump(mode="json"))
