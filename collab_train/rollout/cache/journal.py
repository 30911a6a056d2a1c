"""Finished records, one a line, appended as they come: what a re-run of the same run directory starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from usersim.errors import DataError
from usersim.storage.records import append_line, explain
from usersim.types import Record

R = TypeVar("R", bound=Record)


class Journal(Generic[R]):
    """Survives a kill at any byte: a half-written last line is cut off before the next one is appended."""

    def __init__(self, path: str | Path, kind: type[R]) -> None:
        self.path, self.kind = Path(path), kind
        self._whole = False

    def read(self) -> list[R]:
        """Raises DataError naming the line that is damaged."""
        if not self.path.is_file():
            return []
        self._cut_torn_line()
        records = []
        # Not splitlines(): people type U+2028, and JSON leaves it as it is.
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                records.append(self.kind.model_validate_json(line))
            except ValidationError as error:
                raise DataError(
                    f"{self.path}:{number}: {explain(error)}; delete that line to go on"
                ) from error
        return records

    def append(self, record: R) -> None:
        """Raises BackendError where the disk is full or not writable."""
        if not self._whole:
            self._cut_torn_line()
        append_line(self.path, record.model_dump_json(exclude_defaults=True))

    def _cut_torn_line(self) -> None:
        self._whole = True
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as stream:
                stream.truncate(whole)
