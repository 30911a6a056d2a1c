"""State of a run's stages: one small file each, with hashes of everything that the stage was made from and made."""

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
    """What a stage was started with and, once it is done, what it made."""

    stage: str
    status: Literal["started", "done"]
    version: str
    """Of usersim."""
    config_sha256: str
    inputs: dict[str, str]
    """File → SHA-256; for a package its version."""
    outputs: dict[str, str] = Field(default={})
    commands: tuple[str, ...] = ()
    left_out: str | None = None
    """Why its command was not run."""
    seconds: float = 0.0
    """Over all sessions."""

    def changes_since(self, before: StageState) -> list[str]:
        """What differs from an earlier state in a way that makes its result another one."""
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
    """SHA-256 of a JSON-able part of a config."""
    return hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()


class FileHashes:
    """SHA-256 of files; one whose size and time of change are as before is not read again."""

    def __init__(self, cache: Path | None) -> None:
        """`cache`: JSON file that hashes are kept in between runs; None: in memory only."""
        self._cache = cache
        self._known: dict[str, list[Any]] = {}
        if cache is not None:
            try:
                self._known = json.loads(cache.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                self._known = {}

    def of(self, path: Path) -> str:
        """`missing` where there is no such file."""
        try:
            facts = path.stat()
        except OSError:
            return "missing"
        before = self._known.get(str(path))
        if before is not None and before[:2] == [facts.st_size, facts.st_mtime_ns]:
            return str(before[2])
        digest = file_hash(path)
        self._known[str(path)] = [facts.st_size, facts.st_mtime_ns, digest]
        return digest

    def of_all(self, paths: Iterable[Path]) -> dict[str, str]:
        return {str(path): self.of(path) for path in paths}

    def keep(self) -> None:
        if self._cache is not None:
            write_json(self._cache, self._known)


def state_file(run: Path, stage: str) -> Path:
    return run / STATE / f"{stage}.json"


def read_state(run: Path, stage: str) -> StageState | None:
    """None where the stage never ran or its state file is damaged: it then runs anew."""
    try:
        return StageState.model_validate_json(state_file(run, stage).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_state(run: Path, state: StageState) -> None:
    write_json(state_file(run, state.stage), state.model_dump(mode="json"))
