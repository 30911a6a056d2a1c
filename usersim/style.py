"""How somebody writes, measured from their own turns.

The same numbers condition the model in training, describe personas in prose, and score control in `eval`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median

from usersim.types import Style, Turn

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # noqa: RUF001 - people type the curly apostrophe
POLITE = re.compile(
    r"\b(please|pls|plz|thanks|thank you|thx|ty|sorry|kindly|appreciate|would you mind)\b",
    re.IGNORECASE,
)
ENDS_SENTENCE = re.compile(r"[.!?…:;)\]\"'”’]\s*$")  # noqa: RUF001


def words(text: str) -> list[str]:
    """Runs of letters and digits, inner apostrophes and hyphens kept: "don't", "well-kept"."""
    return WORD.findall(text)


def starts_lower(text: str) -> bool | None:
    """Whether the first letter is lower case; None where the text has no cased letter."""
    for character in text:
        if character.isalpha() and character.lower() != character.upper():
            return character.islower()
    return None


def is_question(text: str) -> bool:
    return "?" in text


def is_polite(text: str) -> bool:
    return POLITE.search(text) is not None


def ends_punctuated(text: str) -> bool:
    return ENDS_SENTENCE.search(text) is not None


def share(flags: Sequence[bool | None]) -> float | None:
    """Share of True among those that are not None; None when there are none."""
    known = [flag for flag in flags if flag is not None]
    return sum(known) / len(known) if known else None


def measure(turns: Sequence[Turn]) -> Style:
    """Style of the user turns among `turns`; every field None when there are none."""
    texts = [turn.text for turn in turns if turn.role == "user"]
    if not texts:
        return Style()
    counts = [len(words(text)) for text in texts]
    return Style(
        words_per_turn=float(median(counts)),
        opening_words=float(counts[0]),
        lowercase_starts=share([starts_lower(text) for text in texts]),
        questions=share([is_question(text) for text in texts]),
        politeness=share([is_polite(text) for text in texts]),
        end_punctuation=share([ends_punctuated(text) for text in texts]),
        turns=float(len(texts)),
    )
