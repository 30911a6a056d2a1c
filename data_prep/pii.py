"""Personal data replaced by typed placeholders: [EMAIL], [PHONE], [CARD], [IBAN], [IP], [KEY], [NAME] …

Presidio finds, `pii_rules` says what counts, `pii_places` where it is worth looking. Names are found only where people
introduce themselves, sign or address somebody; postal addresses, dates of birth and passwords are not looked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data_prep.chats import RawChat, RawTurn
from data_prep.pii_places import CORES, kinds_in, windows
from data_prep.pii_rules import RULES, Span

PLACEHOLDERS = {kind: kind for kind in CORES} | {"PEM": "KEY", "SECRET": "KEY", "ABROAD": "PHONE"}
KINDS = tuple(dict.fromkeys(PLACEHOLDERS.values()))


class Found(NamedTuple):
    kind: str
    """As in its placeholder."""
    start: int
    end: int


def find(text: str, *, everywhere: bool = False) -> list[Found]:
    """In the order of the text, without overlaps. `everywhere`: the library reads all of it; slow, for tests."""
    kinds = CORES if everywhere else kinds_in(text)
    found = []
    for kind in CORES:
        if kind in kinds:
            places = [(0, len(text))] if everywhere else windows(kind, text)
            found += [Found(PLACEHOLDERS[kind], *span) for span in _spans(kind, text, places)]
    return _apart(found)


def _spans(kind: str, text: str, places: Iterable[Span]) -> Iterator[Span]:
    for start, end in places:
        # Seconds to import, and most texts have no place to look at.
        from data_prep.pii_recognizers import read

        for at, to in read(kind, text[start:end]):
            # What touches an edge of the window may go on beyond it.
            if (at or not start) and (start + to < end or end == len(text)):
                span = RULES[kind](text, start + at, start + to)
                if span:
                    yield span


def _apart(found: Iterable[Found]) -> list[Found]:
    """Of two that overlap the kind that `CORES` has first stays, of one kind the longer."""
    kept: list[Found] = []
    for this in sorted(found, key=lambda one: (one.start, one.end)):
        if not kept or this.start >= kept[-1].end:
            kept.append(this)
        elif _weight(this) < _weight(kept[-1]):
            kept[-1] = this
    return kept


def _weight(found: Found) -> tuple[int, int]:
    return KINDS.index(found.kind), found.start - found.end


def scrub_text(text: str, found: Counter[str]) -> str:
    """The same text where there is nothing to replace."""
    spans = find(text)
    if not spans:
        return text
    pieces, done = [], 0
    for kind, start, end in spans:
        pieces += [text[done:start], f"[{kind}]"]
        done = end
        found[kind] += 1
    return "".join([*pieces, text[done:]])


def scrub(chat: RawChat, found: Counter[str]) -> RawChat:
    """Both sides and the system prompt: assistants repeat what they were told."""
    texts = [turn.text for turn in chat.turns]
    # One look at the whole chat spares most of them a look at every turn.
    if not kinds_in("\n".join([*texts, chat.system or ""])):
        return chat
    turns = tuple(_scrub_turn(turn, found) for turn in chat.turns)
    system = chat.system and scrub_text(chat.system, found)
    if system == chat.system and all(new is old for new, old in zip(turns, chat.turns, strict=True)):
        return chat
    return chat.model_copy(update={"turns": turns, "system": system})


def _scrub_turn(turn: RawTurn, found: Counter[str]) -> RawTurn:
    text = scrub_text(turn.text, found)
    return turn if text is turn.text else turn.model_copy(update={"text": text})
