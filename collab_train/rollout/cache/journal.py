"""Journal of finished records in a run directory, one per line; a repeated run resumes from it."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from usersim.errors import DataError
from usersim.storage.records import append_line, explain
from usersim.types import Record

R = TypeVar("R", bound=Record)


class Journal(Generic[R]):
    """Append-only file of records. It survives a kill at any byte: an incomplete last line is cut before appending."""

    def __init__(self, path: str | Path, kind: type[R]) -> None:
        self.path, self.kind = Path(path), kind
        self._is_checked = False

    def read(self) -> list[R]:
        """Reads all records.

        Raises:
            DataError: a line is damaged.
        """
        if not self.path.is_file():
            return []
        self._cut_torn_line()
        records = []
        # Not splitlines(): people type U+2028, which JSON does not escape.
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                records.append(self.kind.model_validate_json(line))
            except ValidationError as error:
                raise DataError(
                    f"{self.path}:{number}: {explain(error)}; delete that line to go on"
                ) from error
        return records

    def append(self, record: R) -> None:
        """Appends a record.

        Raises:
            BackendError: the disk is full or not writable.
        """
        if not self._is_checked:
            self._cut_torn_line()
        append_line(self.path, record.model_dump_json(exclude_defaults=True))

    def _cut_torn_line(self) -> None:
        self._is_checked = True
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        complete_bytes = content.rfind(b"\n") + 1
        if complete_bytes < len(content):
            with self.path.open("r+b") as stream:
                stream.truncate(complete_bytes)
