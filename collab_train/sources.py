"""Sources of tasks: rows of a file or of a Hugging Face data set, and shared helpers."""

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
"""One row in `HELD_OUT` is held out."""


def rows(path: str | None, task: str, usual_path: str) -> list[dict[str, Any]]:
    """Reads the rows of a file or data set.

    A file is JSON Lines (.jsonl), a JSON list or an object that holds one (.json), either gzipped, or parquet. A data
    set is `hf:NAME[:CONFIG][@SPLIT]`; it is loaded with `datasets` and may download.

    Args:
        path: file or data set.
        task: name of the task, for errors.
        usual_path: usual data set of the task, for the error if `path` is None.

    Raises:
        ConfigError: there is no path, or nothing can be loaded from it.
        DataError: the file is damaged or has no rows.
    """
    if path is None:
        raise ConfigError(
            f"task {task}: set task_path=FILE (JSON, JSON Lines, gz, parquet) or task_path={usual_path}"
        )
    if path.startswith("hf:"):
        return _from_hub(path)
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"task {task}: {path}: no such file")
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
    json_rows: list[dict[str, Any]] = value
    return json_rows


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
    except Exception as error:  # many kinds: no network, unknown name, unknown split
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: cannot be loaded ({reason}); give a local file instead") from error


def field(row: dict[str, Any], name: str, number: int, path: str | None) -> Any:
    """Returns `row[name]`.

    Raises:
        DataError: the row lacks the field, or it is empty.
    """
    if row.get(name) in (None, ""):
        raise DataError(f"{path}: row {number} has no {name!r}; its fields are {', '.join(sorted(row))}")
    return row[name]


def split_of(identifier: str) -> Split:
    """Returns the split of an id. It depends only on the id, so added or reordered rows change no split."""
    return "heldout" if zlib.crc32(identifier.encode()) % HELD_OUT == 0 else "train"


def pick(choices: Sequence[T], identifier: str) -> T:
    return choices[zlib.crc32(identifier[::-1].encode()) % len(choices)]


def sentences(text: str) -> list[str]:
    """Splits prose into sentences; formulas stay whole."""
    return [part for piece in SENTENCE.split(text) if (part := " ".join(piece.split()))]


PROBLEM_OPENINGS = (
    "can you help me with some {}?",
    "i'm stuck on my {} homework",
    "hi, there is this {} question i can't solve",
    "need help with {}, just one problem",
    "how do i solve this, it is {}",
)


def problem_context(identifier: str, problem: str, answer: str, subject: str) -> Context:
    """Makes a context for a problem: the opening names the subject, and the sentences are the facets.

    People begin vaguely: they state the problem when the assistant asks, or in pieces.
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
