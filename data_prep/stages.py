"""Pure stages: a batch of chats in, each chat or the reason of its rejection out. The pipeline counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Literal

from data_prep.chats import RawChat, RawTurn


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


def keep_within(
    chat: RawChat, *, user_max_chars: int | None, max_turns: int | None, max_chars: int | None
) -> RawChat | Rejected:
    """Cuts as `cap_user_turns` does; what is then still too long goes as a whole."""
    kept = chat if user_max_chars is None else cap_user_turns(chat, user_max_chars)
    if isinstance(kept, Rejected):
        return kept
    if max_turns is not None and len(kept.turns) > max_turns:
        return Rejected("too many turns")
    if (
        max_chars is not None
        and sum(len(turn.text) for turn in kept.turns) + len(kept.system or "") > max_chars
    ):
        return Rejected("conversation too long")
    return kept


def drop_flagged(chat: RawChat, flags: tuple[str, ...]) -> RawChat | Rejected:
    """The switch that makes what a corpus says about a chat, such as `toxic`, a reason to leave it out."""
    for flag in flags:
        if flag in chat.flags:
            return Rejected(f"flagged {flag}")
    return chat


def local_stages(
    *,
    language: Literal["en", "any"],
    user_max_chars: int | None,
    max_turns: int | None,
    max_chars: int | None,
    drop: tuple[str, ...],
    scrub: bool = True,
) -> dict[str, Stage]:
    """Every stage that needs no other chat, by name and in order. They can be pickled."""
    # These modules use the types of this one.
    from data_prep.artefacts import clean_artefacts
    from data_prep.language import name_language, named_english
    from data_prep.pii import scrub as scrub_chat

    bounds = partial(keep_within, user_max_chars=user_max_chars, max_turns=max_turns, max_chars=max_chars)
    stages: dict[str, Stage] = {
        "role repair": partial(_plain, repair_roles),
        "web artefacts": partial(_counting, clean_artefacts),
        "empty turns": partial(_plain, drop_empty),
        "length bounds": partial(_plain, bounds),
        "flags": partial(_plain, partial(drop_flagged, flags=drop)),
        "language": partial(_plain, named_english if language == "en" else name_language),
    }
    return stages | {"personal data": partial(_counting, scrub_chat)} if scrub else stages


def _plain(stage: Callable[[RawChat], RawChat | Rejected], batch: list[RawChat]) -> Done:
    return Done([stage(chat) for chat in batch])


def _counting(stage: Callable[[RawChat, Counter[str]], RawChat | Rejected], batch: list[RawChat]) -> Done:
    found: Counter[str] = Counter()
    return Done([stage(chat, found) for chat in batch], found)


def digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
