"""What tasks are made from: rows of a file or of a data set of the hub, and the small decisions they share."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from collab_train.contexts import Context, Split
from usersim.errors import ConfigError, DataError
from usersim.types import Facet, Goal, Turn, UserProfile

T = TypeVar("T")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z$\\\"'(\[])|\n{2,}")
HELD_OUT = 5
"""One row in so many is held out."""


def rows(path: str | None, task: str, known: str) -> list[dict[str, Any]]:
    """The rows of JSON Lines (.jsonl), a JSON list or an object that holds one (.json), either gzipped, or parquet;
    or of `hf:NAME[:CONFIG][@SPLIT]`, which is loaded through `datasets` and may download.

    Nothing is read unless it is named: without a path a ConfigError says which data set is usual.
    """
    if path is None:
        raise ConfigError(
            f"task {task}: say task_path=FILE (JSON, JSON Lines, gz, parquet) or task_path={known}"
        )
    if path.startswith("hf:"):
        return _from_hub(path)
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"task {task}: {path}: there is no such file")
    if file.suffix == ".parquet":
        from pyarrow import parquet  # type: ignore[import-untyped]

        table: list[dict[str, Any]] = parquet.read_table(file).to_pylist()
        return table
    return _from_json(file)


def _from_json(file: Path) -> list[dict[str, Any]]:
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if ".jsonl" in file.name:
        value = [_line(file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        value = _line(file, 1, text)
    if isinstance(value, dict):  # {"version": …, "data": […]}
        value = next((inner for inner in value.values() if isinstance(inner, list)), None)
    if not value or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{file}: no rows in it; expected JSON objects")
    found: list[dict[str, Any]] = value
    return found


def _line(file: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{file}:{number}: not JSON ({error})") from error


def _from_hub(path: str) -> list[dict[str, Any]]:
    import datasets  # type: ignore[import-untyped]

    name, _, split = path.removeprefix("hf:").partition("@")
    name, _, config = name.partition(":")
    try:
        return list(datasets.load_dataset(name, config or None, split=split or "train"))
    except Exception as error:  # of many kinds: no network, no such name, no such split
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: cannot be loaded ({reason}); give a local file instead") from error


def field(row: dict[str, Any], name: str, number: int, path: str | None) -> Any:
    """`row[name]`; a DataError names the row."""
    if row.get(name) in (None, ""):
        raise DataError(f"{path}: row {number} has no {name!r}; there are {', '.join(sorted(row))}")
    return row[name]


def split_of(identifier: str) -> Split:
    """By id alone, so that more rows or another order move nothing across."""
    return "heldout" if zlib.crc32(identifier.encode()) % HELD_OUT == 0 else "train"


def pick(choices: Sequence[T], identifier: str) -> T:
    return choices[zlib.crc32(identifier[::-1].encode()) % len(choices)]


def sentences(text: str) -> list[str]:
    """Of prose; formulas stay whole."""
    return [part for piece in SENTENCE.split(text) if (part := " ".join(piece.split()))]


PROBLEM_OPENINGS = (
    "can you help me with some {}?",
    "i'm stuck on my {} homework",
    "hi, there is this {} question i can't solve",
    "need help with {}, just one problem",
    "how do i solve this, it is {}",
)


def problem_context(identifier: str, problem: str, answer: str, subject: str) -> Context:
    """A problem that the user has before them: the opening names the subject, the sentences are the facets.

    People begin vaguely; what is given and what is asked comes out when the assistant asks, or in pieces.
    """
    facets = tuple(Facet(text=sentence) for sentence in sentences(problem))
    goal = Goal(summary=f"get a problem of {subject} solved and know the answer", facets=facets)
    opening = pick(PROBLEM_OPENINGS, identifier).format(subject)
    return Context(
        id=identifier,
        turns=(Turn(role="user", text=opening),),
        profile=UserProfile(goal=goal),
        split=split_of(identifier),
        topic=subject,
        metadata={"answer": answer},
    )
