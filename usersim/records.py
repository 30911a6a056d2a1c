"""Records to and from files: JSON Lines read with path:line in every complaint, files written atomically."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from usersim.errors import DataError
from usersim.types import Conversation, Record

R = TypeVar("R", bound=Record)


def read_jsonl(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(line number, parsed value) of every non-blank line; `.gz` is decompressed."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except json.JSONDecodeError as error:
                        raise DataError(f"{file}:{number}: not JSON ({error.msg})") from error
    except (UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error})") from error


def explain(error: ValidationError) -> str:
    """The first complaint of pydantic in one line: `turns.0.role: Input should be …`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (+{error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where + ': ' if where else ''}{first['msg']}{more}"


def read_records(path: str | Path, kind: type[R]) -> Iterator[R]:
    for number, value in read_jsonl(path):
        try:
            yield kind.model_validate(value)
        except ValidationError as error:
            raise DataError(f"{path}:{number}: {explain(error)}") from error


def read_conversations(path: str | Path) -> list[Conversation]:
    return list(read_records(path, Conversation))


@contextmanager
def atomic_writer(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that appears under its name complete or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Writes JSON Lines atomically and returns how many."""
    count = 0
    with atomic_writer(path) as stream:
        for record in records:
            stream.write(record.model_dump_json(exclude_defaults=True) + "\n")
            count += 1
    return count


def write_json(path: str | Path, value: Any) -> None:
    with atomic_writer(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")
