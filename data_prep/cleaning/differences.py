"""Word-level differences between two versions of a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

WORDS_COMPARED = 3_000
"""Most words compared in a changed stretch; comparison takes quadratic time."""
TOKEN = re.compile(r"\[[A-Z_]+\]|\w+|\s+|[^\w\s]")


class Piece(NamedTuple):
    kind: Literal["same", "removed", "added"]
    text: str


def differences(before: str, after: str) -> list[Piece]:
    """Returns the pieces of both texts in order. A very long changed stretch counts as wholly replaced."""
    if before == after:
        return [Piece("same", before)] if before else []
    head = _common_prefix(before, after)
    tail = _common_prefix(before[head:][::-1], after[head:][::-1])
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    # A word that changed in part is shown whole.
    while head and (before[head - 1].isalnum() or before[head - 1] == "["):
        head -= 1
        old, new = before[head] + old, after[head] + new
    end = len(before) - tail
    while tail and (before[end].isalnum() or before[end] == "]"):
        old, new = old + before[end], new + before[end]
        end, tail = end + 1, tail - 1
    pieces = [Piece("same", before[:head]), *_compare_words(old, new), Piece("same", before[end:])]
    return [piece for piece in pieces if piece.text]


def _common_prefix(one: str, other: str) -> int:
    """Returns the length of the common prefix."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def _compare_words(before: str, after: str) -> Iterator[Piece]:
    old, new = TOKEN.findall(before), TOKEN.findall(after)
    if max(len(old), len(new)) > WORDS_COMPARED:
        yield Piece("removed", before)
        yield Piece("added", after)
        return
    for _, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if old[a:b] == new[c:d]:
            yield Piece("same", "".join(old[a:b]))
        else:
            yield Piece("removed", "".join(old[a:b]))
            yield Piece("added", "".join(new[c:d]))


def clipped(pieces: Sequence[Piece], *, around: int, most: int) -> Iterator[Piece]:
    """Shortens unchanged pieces to the surroundings of each change.

    Args:
        pieces: the differences of a whole text.
        around: characters kept on each side of a change.
        most: most characters of any other piece.
    """
    for index, piece in enumerate(pieces):
        first, last = index == 0, index == len(pieces) - 1
        if piece.kind != "same" or (first and last):
            yield Piece(piece.kind, cut(piece.text, 0 if first and last else most // 4, most))
        else:
            yield Piece("same", cut(piece.text, 0 if last else around, around * (1 if first or last else 2)))


def cut(text: str, end: int, most: int) -> str:
    """Shortens `text` to at most `most` characters, `end` of them from its end."""
    if len(text) <= most + 40:
        return text
    return (
        f"{text[: most - end]} […{len(text) - most:,} characters…] {text[len(text) - end :] if end else ''}"
    )
