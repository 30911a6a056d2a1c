"""Escapes for untrusted text on a terminal, against cursor movement, colours and bidirectional marks."""

from __future__ import annotations

import re
import unicodedata

SUSPECT = re.compile(r"[^\t\n\x20-\x7e\xa1-\u1fff\u2030-\u205e\u2070-\ud7ff]")
"""Characters that are checked by Unicode category; most text has none."""
JOINERS = "\u200c\u200d"
"""Zero-width joiners, which Persian, Hindi and emoji need."""
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: str) -> str:
    """Returns `text` with control, direction and surrogate characters escaped as `\\x1b`; line breaks and tabs stay."""
    return SUSPECT.sub(_escape, text)


def one_line(text: str) -> str:
    """Returns `visible` text with line breaks escaped and tabs as spaces."""
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in JOINERS or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode()
