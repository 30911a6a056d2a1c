"""Replaces personal data by typed placeholders: [EMAIL], [PHONE], [CARD], [IBAN], [IP], [KEY], [NAME] …

`candidates` selects the windows to read, Presidio matches, and `rules` decides which matches count. Names are found
only where people name themselves or each other, or sign or address a letter. Numbers of papers and accounts are found
after their name, handles beside their site. Postal addresses, dates of birth and passwords are not searched.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from data_prep.pii.candidates import CORES, kinds_in, may_name_person, searched_in, windows
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


INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
VARIANT = re.compile(
    r"[\u00a0\u2000-\u200a\u2010-\u2015\u202f\u205f\u2212\u3000\uff01-\uff5e\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u09e6-\u09ef"
    r"\u0a66-\u0a6f\u0ae6-\u0aef\u0b66-\u0b6f\u0be6-\u0bef\u0c66-\u0c6f\u0ce6-\u0cef\u0d66-\u0d6f\u0e50-\u0e59\u0ed0-\u0ed9"
    r"\u0f20-\u0f29\u1040-\u1049\u17e0-\u17e9]"
)
"""Spaces, dashes, letters and digits of another width or script."""
INVISIBLE_OR_VARIANT = re.compile(f"[{INVISIBLE.pattern[1:-1]}{VARIANT.pattern[1:-1]}]")


class PiiSpan(NamedTuple):
    kind: str
    """Name in the placeholder."""
    start: int
    end: int


class NormalText(NamedTuple):
    """Text with common digits, letters, spaces and dashes only, and without invisible characters."""

    text: str
    removed: tuple[int, ...]
    """Indices of the normal text before which a character was removed, in order."""

    def place(self, index: int) -> int:
        """Returns the index in the original text."""
        return index + bisect_right(self.removed, index)


def to_normal(text: str) -> NormalText:
    if text.isascii() or not INVISIBLE_OR_VARIANT.search(text):
        return NormalText(text, ())
    invisible = [match.start() for match in INVISIBLE.finditer(text)]
    if invisible:
        text = INVISIBLE.sub("", text)
    return NormalText(
        VARIANT.sub(_common_character, text),
        tuple(position - before for before, position in enumerate(invisible)),
    )


def _common_character(match: re.Match[str]) -> str:
    character = match[0]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if "\uff01" <= character <= "\uff5e":
        return chr(ord(character) - 0xFEE0)
    return " " if character.isspace() else "-"


def find(text: str, *, among: Set[str] | None = None, everywhere: bool = False) -> list[PiiSpan]:
    """Returns the personal data in `text`, in order and without overlaps.

    Args:
        text: any text.
        among: kinds of SEARCHED to search for; None: those that may occur.
        everywhere: let the recognisers read the whole text; slow, for tests.
    """
    normal = to_normal(text)
    text = normal.text
    searched = searched_in(text) if among is None else among
    kinds = CORES if everywhere else kinds_in(text) | searched
    spans = []
    for kind in CORES:
        if kind in kinds:
            places = [(0, len(text))] if everywhere else windows(kind, text)
            spans += [PiiSpan(PLACEHOLDERS[kind], *span) for span in _spans(kind, text, places)]
    return [
        PiiSpan(kind, normal.place(start), normal.place(end - 1) + 1)
        for kind, start, end in _without_overlaps(spans)
    ]


def _spans(kind: str, text: str, places: Iterable[Span]) -> Iterator[Span]:
    for start, end in places:
        # The import takes seconds, and most texts have no window to read.
        from data_prep.pii.recognizers import read

        for at, to in read(kind, text[start:end]):
            # A match at an edge of the window may continue beyond it.
            if (at or not start) and (start + to < end or end == len(text)):
                span = RULES[kind](text, start + at, start + to)
                if span:
                    yield span


def _without_overlaps(spans: Iterable[PiiSpan]) -> list[PiiSpan]:
    """Resolves overlaps: the kind that is first in `CORES` stays, and of one kind the longer span."""
    selected: list[PiiSpan] = []
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if not selected or span.start >= selected[-1].end:
            selected.append(span)
        elif _priority(span) < _priority(selected[-1]):
            selected[-1] = span
    return selected


def _priority(span: PiiSpan) -> tuple[int, int]:
    return KINDS.index(span.kind), span.start - span.end


def scrub_text(text: str, counts: Counter[str], among: Set[str] | None = None) -> str:
    """Returns `text` with placeholders; the same object if there is nothing to replace."""
    # Repeated: a placeholder may bring a word such as "call" within reach of a number.
    while spans := find(text, among=among):
        pieces, done = [], 0
        for kind, start, end in spans:
            pieces += [text[done:start], f"[{kind}]"]
            done = end
            counts[kind] += 1
        text = "".join([*pieces, text[done:]])
    return text


FRONT = 2000
"""Characters of each user turn that are checked for SEARCHED kinds; if any may occur, the whole chat is searched."""


def scrub(chat: RawChat, counts: Counter[str]) -> RawChat:
    """Replaces personal data in both sides and the system prompt; assistants repeat what they were told.

    Args:
        chat: the chat; returned unchanged if nothing is replaced.
        counts: number of replacements by kind; updated in place.
    """
    sample = "\n".join([*(text[:FRONT] for text in chat.user_texts), chat.system or ""])
    # One check of the whole chat saves most chats a check per turn.
    searched = searched_in(to_normal(sample).text)
    kinds = kinds_in("\n".join(turn.text for turn in chat.turns))
    turns = tuple(_scrub_turn(turn, counts, kinds, searched) for turn in chat.turns)
    system = chat.system and scrub_text(chat.system, counts, searched)
    if system == chat.system and all(new is old for new, old in zip(turns, chat.turns, strict=True)):
        return chat
    return chat.model_copy(update={"turns": turns, "system": system})


def _scrub_turn(turn: RawTurn, counts: Counter[str], kinds: Set[str], searched: Set[str]) -> RawTurn:
    if turn.role != "user":
        # Names in assistant turns are invented, except in letters and introductions.
        searched = searched - {"NAME"} | ({"NAME"} if may_name_person(turn.text) else set())
    if not kinds and not searched:
        return turn
    text = scrub_text(turn.text, counts, searched)
    return turn if text is turn.text else turn.model_copy(update={"text": text})
