"""The stages that look at one chat at a time, in their order: what runs in every worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from data_prep.cleaning.artefacts import clean_artefacts
from data_prep.cleaning.language import name_language, named_english
from data_prep.cleaning.stages import Done, Rejected, Stage, cap_user_turns, drop_empty, each, repair_roles
from data_prep.pii.scrub import scrub
from data_prep.raw_chats import RawChat
from data_prep.settings import Settings


def local_stages(settings: Settings) -> dict[str, Stage]:
    """Named as in the datasheet. Bounds come early: nothing after them meets a text of 50 MB."""
    bounds = settings.bounds
    stages: dict[str, Stage] = {
        "role repair": _plain(repair_roles),
        "empty turns": _plain(drop_empty),
        "length bounds": _plain(partial(within, bounds.user_chars, bounds.turns, bounds.chars)),
        "web artefacts": each(clean_artefacts),
        "left empty": _plain(drop_empty),
        "language": _plain(named_english if settings.language == "en" else name_language),
    }
    if settings.drop_flagged:
        stages["flags"] = _plain(partial(without_flags, frozenset(settings.drop_flagged)))
    if settings.scrub:
        stages["personal data"] = each(scrub)
    return stages


def within(user_chars: int | None, turns: int | None, chars: int | None, chat: RawChat) -> RawChat | Rejected:
    """Cut before a user turn that is too long; rejected when there is too much of all."""
    if user_chars is not None:
        cut = cap_user_turns(chat, user_chars)
        if isinstance(cut, Rejected):
            return cut
        chat = cut
    if turns is not None and len(chat.turns) > turns:
        return Rejected("too many turns")
    if chars is not None and sum(len(turn.text) for turn in chat.turns) > chars:
        return Rejected("too long")
    return chat


def without_flags(flags: frozenset[str], chat: RawChat) -> RawChat | Rejected:
    found = sorted(flags.intersection(chat.flags))
    return Rejected(f"flagged {found[0]}") if found else chat


def _plain(stage: Callable[[RawChat], RawChat | Rejected]) -> Stage:
    """A stage that finds nothing to count but its rejections."""
    return lambda batch: Done([stage(chat) for chat in batch], Counter())
