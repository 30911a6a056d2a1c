"""Per-chat cleaning stages in their order, as every worker runs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from data_prep.cleaning.artefacts import clean_artefacts
from data_prep.cleaning.language import name_language, named_english
from data_prep.cleaning.stages import (
    Rejected,
    Stage,
    StageResult,
    cap_user_turns,
    drop_empty,
    each,
    repair_roles,
)
from data_prep.pii.scrub import scrub
from data_prep.raw_chats import RawChat
from data_prep.settings import PrepSettings


def local_stages(settings: PrepSettings) -> dict[str, Stage]:
    """Returns the stages by their datasheet name. Length bounds come early: later stages never meet a text of 50 MB."""
    bounds = settings.bounds
    stages: dict[str, Stage] = {
        "role repair": _without_counts(repair_roles),
        "empty turns": _without_counts(drop_empty),
        "length bounds": _without_counts(
            partial(apply_bounds, bounds.user_chars, bounds.turns, bounds.chars)
        ),
        "web artefacts": each(clean_artefacts),
        "left empty": _without_counts(drop_empty),
        "language": _without_counts(named_english if settings.language == "en" else name_language),
    }
    if settings.drop_flagged:
        stages["flags"] = _without_counts(partial(drop_flagged, frozenset(settings.drop_flagged)))
    if settings.scrub:
        stages["personal data"] = each(scrub)
    return stages


def apply_bounds(
    user_chars: int | None, turns: int | None, chars: int | None, chat: RawChat
) -> RawChat | Rejected:
    """Cuts a chat before a too long user turn; rejects one that is too long as a whole."""
    if user_chars is not None:
        capped = cap_user_turns(chat, user_chars)
        if isinstance(capped, Rejected):
            return capped
        chat = capped
    if turns is not None and len(chat.turns) > turns:
        return Rejected("too many turns")
    if chars is not None and sum(len(turn.text) for turn in chat.turns) > chars:
        return Rejected("too long")
    return chat


def drop_flagged(flags: frozenset[str], chat: RawChat) -> RawChat | Rejected:
    matches = sorted(flags.intersection(chat.flags))
    return Rejected(f"flagged {matches[0]}") if matches else chat


def _without_counts(stage: Callable[[RawChat], RawChat | Rejected]) -> Stage:
    """Returns a batch stage that counts nothing but its rejections."""
    return lambda batch: StageResult([stage(chat) for chat in batch], Counter())
