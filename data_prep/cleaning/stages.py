"""Cleaning stages: pure functions from a batch of chats to cleaned chats or rejections."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from data_prep.raw_chats import RawChat, RawTurn


@dataclass(frozen=True)
class Rejected:
    reason: str


@dataclass(frozen=True)
class StageResult:
    """Result of a stage on one batch."""

    chats: list[RawChat | Rejected]
    """Cleaned chat or rejection for each chat of the batch, in its order."""
    counts: Counter[str] = field(default_factory=Counter)
    """Replaced or removed pieces by kind: `EMAIL`, `edit pager` …"""


Stage = Callable[[list[RawChat]], StageResult]


def each(stage: Callable[[RawChat, Counter[str]], RawChat | Rejected]) -> Stage:
    """Returns a batch stage that applies `stage` to one chat at a time."""

    def run(batch: list[RawChat]) -> StageResult:
        counts: Counter[str] = Counter()
        return StageResult([stage(chat, counts) for chat in batch], counts)

    return run


def repair_roles(chat: RawChat) -> RawChat | Rejected:
    """Moves system messages at the front to `system`; a greeting by the assistant stays.

    All other turns must alternate. Two turns in a row by one side are not merged: in these corpora a message between
    them was mostly lost.
    """
    front = 0
    while front < len(chat.turns) and chat.turns[front].role == "system":
        front += 1
    turns = chat.turns[front:]
    roles = [turn.role for turn in turns]
    if "tool" in roles:
        return Rejected("tool messages")
    if "system" in roles:
        return Rejected("system message inside")
    if any(before == after for before, after in pairwise(roles)):
        return Rejected("turns do not alternate")
    if not front:
        return chat
    system = "\n\n".join(turn.text for turn in chat.turns[:front]) or chat.system
    return chat.model_copy(update={"turns": turns, "system": system})


def drop_empty(chat: RawChat) -> RawChat | Rejected:
    """Removes empty turns at the end, whose end is then unknown; rejects a chat with an empty turn elsewhere."""
    turns, ended_by = chat.turns, chat.ended_by
    while turns and not turns[-1].text.strip():
        turns, ended_by = turns[:-1], "unknown"
    if any(not turn.text.strip() for turn in turns):
        return Rejected("empty turn")
    if not any(turn.role == "user" for turn in turns):
        return Rejected("no user turn")
    if turns[-1].role == "user" and ended_by == "user":
        # The reply is missing from the corpus, so the person may or may not have answered it.
        ended_by = "unknown"
    if turns is chat.turns and ended_by == chat.ended_by:
        return chat
    return chat.model_copy(update={"turns": turns, "ended_by": ended_by})


def cap_user_turns(chat: RawChat, max_chars: int) -> RawChat | Rejected:
    """Cuts a chat before the first user turn longer than `max_chars`, which is a paste."""
    for index, turn in enumerate(chat.turns):
        if turn.role == "user" and len(turn.text) > max_chars:
            turns: tuple[RawTurn, ...] = chat.turns[:index]
            if not any(before.role == "user" for before in turns):
                return Rejected("first user turn too long")
            return chat.model_copy(update={"turns": turns, "ended_by": "cut"})
    return chat


def digest(*parts: str) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 of the parts."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
