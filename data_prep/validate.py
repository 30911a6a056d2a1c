"""Checks anybody's conversations against the schema, naming every bad line."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usersim.errors import DataError
from usersim.records import explain
from usersim.types import Conversation

PROBLEMS_SHOWN = 20


def validate(path: Path) -> dict[str, Any]:
    """Counts, and the first bad lines as `path:line: what`; a blank line is skipped."""
    counts: Counter[str] = Counter()
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, line in _lines(path):
        counts["lines"] += 1
        problem = _check(line, number, seen, counts)
        if problem is not None:
            counts["bad"] += 1
            if len(problems) < PROBLEMS_SHOWN:
                problems.append(f"{path}:{number}: {problem}")
    if not counts["lines"]:
        raise DataError(f"{path}: empty, no conversation in it")
    return {
        "file": str(path),
        "ok": not counts["bad"],
        **{name: counts[name] for name in ("lines", "bad", "conversations", "user_turns", "with_goal")},
        "ended_by": {name[9:]: n for name, n in sorted(counts.items()) if name.startswith("ended_by:")},
        "problems": problems,
    }


def _check(line: bytes, number: int, seen: dict[str, int], counts: Counter[str]) -> str | None:
    try:
        conversation = Conversation.model_validate_json(line)
    except ValidationError as error:
        return explain(error)
    first = seen.setdefault(conversation.id, number)
    if first != number:
        return f"id {conversation.id!r} already in line {first}"
    counts["conversations"] += 1
    counts["user_turns"] += sum(turn.role == "user" for turn in conversation.turns)
    counts["with_goal"] += conversation.profile.goal is not None
    counts[f"ended_by:{conversation.ended_by}"] += 1
    return None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Bytes: a line that is not UTF-8 is a bad line, not the end of the check."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
