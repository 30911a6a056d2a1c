"""Pure stages: a batch of chats in, each chat or the reason of its rejection out. The pipeline counts."""

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
class Done:
    """What a stage made of a batch."""

    chats: list[RawChat | Rejected]
    """One for each chat of the batch, in its order."""
    found: Counter[str] = field(default_factory=Counter)
    """What was found or replaced, by kind: `EMAIL`, `edit pager` …"""


Stage = Callable[[list[RawChat]], Done]


def each(stage: Callable[[RawChat, Counter[str]], RawChat | Rejected]) -> Stage:
    """A stage that looks at one chat at a time."""

    def whole(batch: list[RawChat]) -> Done:
        found: Counter[str] = Counter()
        return Done([stage(chat, found) for chat in batch], found)

    return whole


def repair_roles(chat: RawChat) -> RawChat | Rejected:
    """System messages at the front become `system`, a greeting by the assistant stays.

    All else must alternate. Two turns in a row by one side are not merged: in these corpora they
    mostly have a lost message between them.
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
    """An empty last turn goes, and the end is then unknown; one elsewhere leaves a hole."""
    turns, ended_by = chat.turns, chat.ended_by
    while turns and not turns[-1].text.strip():
        turns, ended_by = turns[:-1], "unknown"
    if any(not turn.text.strip() for turn in turns):
        return Rejected("empty turn")
    if not any(turn.role == "user" for turn in turns):
        return Rejected("no user turn")
    if turns[-1].role == "user" and ended_by == "user":
        # The reply is not in the corpus, so whether the person would have answered it is not known.
        ended_by = "unknown"
    if turns is chat.turns and ended_by == chat.ended_by:
        return chat
    return chat.model_copy(update={"turns": turns, "ended_by": ended_by})


def cap_user_turns(chat: RawChat, max_chars: int) -> RawChat | Rejected:
    """Cut before the first user turn longer than `max_chars`: a paste, not something to learn."""
    for index, turn in enumerate(chat.turns):
        if turn.role == "user" and len(turn.text) > max_chars:
            kept: tuple[RawTurn, ...] = chat.turns[:index]
            if not any(before.role == "user" for before in kept):
                return Rejected("first user turn too long")
            return chat.model_copy(update={"turns": kept, "ended_by": "cut"})
    return chat


def digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
