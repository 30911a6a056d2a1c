"""Disk cache of model answers, one small file each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from usersim.errors import DataError
from usersim.storage.records import atomic_writer


def key_of(question: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


class AnswerCache:
    """Disk cache with atomic writes, so that several processes can share it and a kill leaves no partial answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> dict[str, Any] | None:
        """Returns a cached answer; None without one and for a damaged file."""
        try:
            answer = json.loads(self._path(key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return answer if isinstance(answer, dict) else None

    def put(self, key: str, answer: dict[str, Any]) -> None:
        try:
            with atomic_writer(self._path(key)) as stream:
                json.dump(answer, stream, ensure_ascii=False)
        except OSError as error:
            raise DataError(
                f"{self.folder}: an answer cannot be cached ({error.strerror or error}); make room and run again"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
