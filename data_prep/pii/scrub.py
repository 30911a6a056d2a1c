"""Personal data replaced by typed placeholders: [EMAIL], [PHONE], [CARD], [IBAN], [IP], [KEY], [NAME] …

Presidio finds, `pii_rules` says what counts, `pii_places` where it is worth looking. Names are found only where people
name themselves or each other, sign or address a letter, numbers of papers and accounts behind what they are called, and
handles beside their site; postal addresses, dates of birth and passwords are not looked for.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from data_prep.pii.candidates import CORES, kinds_in, names_somebody, searched_in, windows
from data_prep.pii.rules import RULES, Span
from data_prep.raw_chats import RawChat, RawTurn

PLACEHOLDERS = {kind: kind for kind in CORES} | {
    "PEM": "KEY",
    "SECRET": "KEY",
    "SPELLED": "EMAIL",
    "ETHER": "WALLET",
    "ABROAD": "PHONE",
    "HOME": "NAME",
}
KINDS = tuple(dict.fromkeys(PLACEHOLDERS.values()))


UNSEEN = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
ODD = re.compile(
    r"[\u00a0\u2000-\u200a\u2010-\u2015\u202f\u205f\u2212\u3000\uff01-\uff5e\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u09e6-\u09ef"
    r"\u0a66-\u0a6f\u0ae6-\u0aef\u0b66-\u0b6f\u0be6-\u0bef\u0c66-\u0c6f\u0ce6-\u0cef\u0d66-\u0d6f\u0e50-\u0e59\u0ed0-\u0ed9"
    r"\u0f20-\u0f29\u1040-\u1049\u17e0-\u17e9]"
)
"""Spaces, dashes, letters and digits of another width or script."""
EITHER = re.compile(f"[{UNSEEN.pattern[1:-1]}{ODD.pattern[1:-1]}]")


class Found(NamedTuple):
    kind: str
    """As in its placeholder."""
    start: int
    end: int


class Plain(NamedTuple):
    """A text as a form would have it: common digits, letters, spaces and dashes, and nothing that is not seen."""

    text: str
    left_out: tuple[int, ...]
    """Before which characters of it one is missing, in order."""

    def place(self, index: int) -> int:
        """In the text it was made of."""
        return index + bisect_right(self.left_out, index)


def plain(text: str) -> Plain:
    if text.isascii() or not EITHER.search(text):
        return Plain(text, ())
    unseen = [match.start() for match in UNSEEN.finditer(text)]
    if unseen:
        text = UNSEEN.sub("", text)
    return Plain(ODD.sub(_common, text), tuple(place - before for before, place in enumerate(unseen)))


def _common(odd: re.Match[str]) -> str:
    character = odd[0]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if "\uff01" <= character <= "\uff5e":
        return chr(ord(character) - 0xFEE0)
    return " " if character.isspace() else "-"


def find(text: str, *, among: Set[str] | None = None, everywhere: bool = False) -> list[Found]:
    """In the order of the text, without overlaps. `among`: those of SEARCHED that are worth a search; None: find out.

    `everywhere`: the library reads all of it; slow, for tests.
    """
    as_form = plain(text)
    text = as_form.text
    searched = searched_in(text) if among is None else among
    kinds = CORES if everywhere else kinds_in(text) | searched
    found = []
    for kind in CORES:
        if kind in kinds:
            places = [(0, len(text))] if everywhere else windows(kind, text)
            found += [Found(PLACEHOLDERS[kind], *span) for span in _spans(kind, text, places)]
    return [
        Found(kind, as_form.place(start), as_form.place(end - 1) + 1) for kind, start, end in _apart(found)
    ]


def _spans(kind: str, text: str, places: Iterable[Span]) -> Iterator[Span]:
    for start, end in places:
        # Seconds to import, and most texts have no place to look at.
        from data_prep.pii.recognizers import read

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


def scrub_text(text: str, found: Counter[str], among: Set[str] | None = None) -> str:
    """The same text where there is nothing to replace."""
    # Again: a word such as "call" may stand nearer once something long between is a placeholder.
    while spans := find(text, among=among):
        pieces, done = [], 0
        for kind, start, end in spans:
            pieces += [text[done:start], f"[{kind}]"]
            done = end
            found[kind] += 1
        text = "".join([*pieces, text[done:]])
    return text


FRONT = 2000
"""Of a user turn, characters in which names, handles and the like make a chat worth a search; then all is searched."""


def scrub(chat: RawChat, found: Counter[str]) -> RawChat:
    """Both sides and the system prompt: assistants repeat what they were told."""
    asked = "\n".join([*(text[:FRONT] for text in chat.user_texts), chat.system or ""])
    # One look at the whole chat spares most of them a look at every turn.
    told = searched_in(plain(asked).text)
    common = kinds_in("\n".join(turn.text for turn in chat.turns))
    turns = tuple(_scrub_turn(turn, found, common, told) for turn in chat.turns)
    system = chat.system and scrub_text(chat.system, found, told)
    if system == chat.system and all(new is old for new, old in zip(turns, chat.turns, strict=True)):
        return chat
    return chat.model_copy(update={"turns": turns, "system": system})


def _scrub_turn(turn: RawTurn, found: Counter[str], kinds: Set[str], told: Set[str]) -> RawTurn:
    if turn.role != "user":
        # What an assistant says of people by itself is invented, but for letters and introductions.
        told = told - {"NAME"} | ({"NAME"} if names_somebody(turn.text) else set())
    if not kinds and not told:
        return turn
    text = scrub_text(turn.text, found, told)
    return turn if text is turn.text else turn.model_copy(update={"text": text})
