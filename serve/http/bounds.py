"""Size limits of request bodies, checked before any schema validates them."""

from __future__ import annotations

from typing import Any

MAX_LIST, MAX_OBJECT, MAX_NESTED = 512, 128, 50_000
"""Elements of any list, names of any object, and lists and objects in all: a full batch of long chats has 33,000."""
MAX_DEPTH = 64


class TooManyError(ValueError):
    """Raised for a body with too many elements or levels."""


def check_size(value: Any) -> None:
    """Checks list lengths, object sizes, nesting depth and element count of a parsed body.

    Validation costs microseconds and a kilobyte per invalid element, and a body of two megabytes holds a million.

    Raises:
        TooManyError: With the path of the first list or object that is too long.
    """
    nested_count = 0
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), value)]
    while stack:
        path, value = stack.pop()
        if not isinstance(value, (list, dict)):
            continue
        kind, most = ("a list", MAX_LIST) if isinstance(value, list) else ("an object", MAX_OBJECT)
        if len(value) > most:
            where = ".".join(map(str, path))[:80] or "the body"
            raise TooManyError(f"{where}: {kind} of {len(value)}; at most {most} are taken")
        if len(path) >= MAX_DEPTH:
            raise TooManyError(f"the body: nested more than {MAX_DEPTH} deep")
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        nested = [((*path, key), each) for key, each in inner if isinstance(each, (list, dict))]
        stack += nested
        nested_count += len(nested)
        if nested_count > MAX_NESTED:
            raise TooManyError(f"the body: more than {MAX_NESTED} lists and objects")
