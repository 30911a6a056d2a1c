"""Anybody's text on a terminal: nothing in it may move the cursor, change colours or turn the writing round."""

from __future__ import annotations

import re
import unicodedata

SUSPECT = re.compile(r"[^\t\n\x20-\x7e\xa1-\u1fff\u2030-\u205e\u2070-\ud7ff]")
"""Most text has none of these; each is looked at by category."""
JOINERS = "\u200c\u200d"
"""Letters of Persian and Hindi, and emoji, are written with them."""
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def visible(text: str) -> str:
    """Control characters, marks of direction, lone surrogates and the like as `\\x1b`; line breaks and tabs stay."""
    return SUSPECT.sub(_shown, text)


def one_line(text: str) -> str:
    return visible(text).replace("\n", "\\n").replace("\t", " ")


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    if character in JOINERS or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode()
