"""Reading and writing records: JSON Lines with path:line in every error, atomic writes."""

from __future__ import annotations

import glob
import gzip
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import ValidationError

from usersim.errors import BackendError, DataError
from usersim.storage.locks import lock
from usersim.types import Conversation, Record

R = TypeVar("R", bound=Record)
logger = logging.getLogger(__name__)


def read_jsonl(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yields (line number, parsed value) of every non-blank line; `.gz` is decompressed. Raises DataError."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        # Lines end with "\n" alone: a person may have typed U+2028, and a lone "\r" is white space of JSON.
        with opener(file, "rt", encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except json.JSONDecodeError as error:
                        raise DataError(f"{file}:{number}: not JSON ({error.msg})") from error
    except (UnicodeDecodeError, EOFError, OSError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error})") from error


def whole_lines(path: str | Path) -> Iterator[tuple[int, str, Any]]:
    """Yields (line number, line, parsed value) of a JSON Lines file that is appended to, skipping damaged lines.

    A last line that was cut off, by a kill or a full disk, is skipped. An earlier damaged line is skipped with a
    warning.
    """
    file = Path(path)
    lines = file.read_bytes().split(b"\n") if file.is_file() else []
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode("utf-8")
            if line.strip():
                yield number, line, json.loads(line)
        except ValueError:
            if number < len(lines):
                logger.warning("%s:%d: damaged line; it is skipped", file, number)


def append_line(path: str | Path, line: str) -> None:
    """Appends one line atomically.

    Raises BackendError if it cannot be written; a partial write is undone.
    """
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as stream:
            size = stream.tell()
            try:
                text = ("\n" if size and _is_torn(file) else "") + line + "\n"
                remaining = memoryview(text.encode("utf-8"))
                while remaining:
                    remaining = remaining[stream.write(remaining) :]
            except OSError:
                stream.truncate(size)
                raise
    except OSError as error:
        raise BackendError(
            f"{file} cannot be written ({error.strerror}); make room and run the same command again"
        ) from error


def _is_torn(file: Path) -> bool:
    """Returns True if the last line has no newline, so that an appended line would join it."""
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"


def explain(error: ValidationError) -> str:
    """Returns the first error of pydantic in one line: `turns.0.role: Input should be …`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (+{error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where + ': ' if where else ''}{first['msg']}{more}"


def read_records(path: str | Path, kind: type[R]) -> Iterator[R]:
    """Yields the records of a JSON Lines file. Raises DataError naming path:line."""
    for number, value in read_jsonl(path):
        try:
            yield kind.model_validate(value)
        except ValidationError as error:
            raise DataError(f"{path}:{number}: {explain(error)}") from error


def read_conversations(path: str | Path) -> list[Conversation]:
    return list(read_records(path, Conversation))


@contextmanager
def atomic_writer(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a temporary file that replaces `path` only when complete."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    handle, temporary = _open_temporary(target)
    lock_handle = os.dup(handle)  # holds the lock until the file has its name
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
    finally:
        os.close(lock_handle)


TEMPORARY = ".tmp"


def _open_temporary(target: Path) -> tuple[int, str]:
    """Creates a file beside `target`, locked while it is open. Returns its handle and name."""
    while True:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=TEMPORARY)
        if lock(handle) != "taken" and os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # removed by another process before it was locked


def _remove_leftovers(target: Path) -> None:
    """Removes temporary files of killed writers of `target`; running writers hold a lock on theirs."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*{TEMPORARY}"):
        with suppress(OSError), leftover.open("rb") as stream:
            if lock(stream.fileno()) == "ours":
                leftover.unlink()


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Writes JSON Lines atomically. Returns the number of records."""
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
