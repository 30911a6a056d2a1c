"""Content words in a common form, for overlap, topic and disclosure metrics."""

from __future__ import annotations

from functools import lru_cache

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # type: ignore[import-untyped]

from usersim.text.style import words

ENDINGS = ("ing", "ies", "ed", "es", "s", "e", "y")
SHORTEST_STEM = 3
REMEMBERED = 20_000


@lru_cache(maxsize=REMEMBERED)
def stems(text: str) -> frozenset[str]:
    """Returns distinct content words without English stop words and inflection. In other languages: all words."""
    return frozenset(stem(word) for word in map(str.lower, words(text)) if word not in ENGLISH_STOP_WORDS)


def stem(word: str) -> str:
    """Cuts one English ending where three letters remain: "planning" → "plann", "plans" and "plan" → "plan"."""
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_STEM:
            return word[: -len(ending)]
    return word
