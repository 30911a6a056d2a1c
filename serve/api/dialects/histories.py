"""Conversations as clients write them into a prompt → turns with true roles."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from usersim.types import Turn


def from_transcript(text: str, speaker: re.Pattern[str]) -> list[Turn]:
    """`speaker` finds where a message begins, and names its role. A message that holds such a line itself reads
    as two: the client's format has no way to tell."""
    starts = list(speaker.finditer(text))
    ends = [*(start.start() for start in starts[1:]), len(text)]
    # No messages: one end more than starts.
    return alternating(
        _turn(start[1], text[start.end() : end].strip("\n")) for start, end in zip(starts, ends, strict=False)
    )


def from_items(items: Any) -> list[Turn]:
    """A list of objects with role and content; raises KeyError or TypeError for anything else."""
    return alternating(_turn(item["role"], str(item["content"])) for item in items)


def alternating(turns: Iterable[Turn]) -> list[Turn]:
    """Neighbours of one role become one turn."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            joined[-1] = Turn(role=turn.role, text=f"{joined[-1].text}\n\n{turn.text}")
        else:
            joined.append(turn)
    return joined


@dataclass(frozen=True)
class Block:
    text: str
    start: int
    """Of the opening line."""
    end: int
    """After the closing mark."""


def between(text: str, opens: str, closes: str, *, start: int = 0, last: bool = False) -> Block | None:
    """What stands between a line that begins with `opens` and one that begins with `closes`; the first such, or
    the last.

    No pattern: one that may match anything takes quadratic time over a prompt that repeats its beginning.
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
