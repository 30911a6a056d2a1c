"""Parsers of conversation histories in prompts: turns with true roles."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from usersim.types import Turn


def from_transcript(text: str, speaker: re.Pattern[str]) -> list[Turn]:
    """Parses a transcript.

    A message that contains a speaker line is read as two: the client's format is ambiguous.

    Args:
        text: The transcript.
        speaker: Pattern of the start of a message, with the role as group 1.
    """
    starts = list(speaker.finditer(text))
    ends = [*(start.start() for start in starts[1:]), len(text)]
    # Without messages there is one more end than starts.
    return alternating(
        _turn(start[1], text[start.end() : end].strip("\n")) for start, end in zip(starts, ends, strict=False)
    )


def from_items(items: Any) -> list[Turn]:
    """Parses a list of objects with role and content; raises KeyError or TypeError for other values."""
    return alternating(_turn(item["role"], str(item["content"])) for item in items)


def alternating(turns: Iterable[Turn]) -> list[Turn]:
    """Merges consecutive turns of one role."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            joined[-1] = Turn(role=turn.role, text=f"{joined[-1].text}\n\n{turn.text}")
        else:
            joined.append(turn)
    return joined


@dataclass(frozen=True)
class Block:
    """Text between two marks, with the position of the marks."""

    text: str
    start: int
    """Start of the opening line."""
    end: int
    """Position after the closing mark."""


def between(text: str, opens: str, closes: str, *, start: int = 0, last: bool = False) -> Block | None:
    """Finds the lines between one that begins with `opens` and one that begins with `closes`.

    Not a regular expression: one that matches any text takes quadratic time on a prompt that repeats its beginning.

    Args:
        start: Position at which the search begins.
        last: True: up to the last closing line, else up to the first.
    """
    opened = start if text.startswith(opens, start) else text.find(f"\n{opens}", start) + 1
    if opened < start or not text.startswith(opens, opened):
        return None
    begins = text.find("\n", opened)
    ends = text.rfind(f"\n{closes}", begins) if last else text.find(f"\n{closes}", begins)
    if begins < 0 or ends < 0:
        return None
    return Block(text[begins + 1 : ends], opened, ends + 1 + len(closes))


def _turn(role: str, text: str) -> Turn:
    return Turn(role="user" if role.lower() == "user" else "assistant", text=text)
