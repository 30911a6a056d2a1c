"""Style of a person's writing, measured from their turns.

The same values condition the model in training, describe personas in prose, and score control in `eval`. The word lists
are English: attributes based on them are None for prose in another language. Length, questions, politeness and end
punctuation use the whole turn, the other attributes its first 1,000 characters (`usersim.text.code_blocks`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import log
from statistics import median

from usersim.text.code_blocks import ProseAndCode, split
from usersim.text.spelling import Marks, dictionary
from usersim.text.user_acts import is_order, is_pushback
from usersim.types import Style, Turn

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")  # noqa: RUF001 - people type the curly apostrophe
KINDS_OF_BYTE = bytes(
    ord("a") if chr(code).isalnum() else ord("-") if chr(code) in "'-" else ord(" ") for code in range(128)
) + bytes(128)
POLITE = re.compile(
    r"\b(please|pls|plz|thanks|thank you|thx|ty|sorry|kindly|appreciate|would you mind)\b",
    re.IGNORECASE,
)
TY = re.compile(r"ty(?<!\wty)\b")
SENTENCE_ENDS = frozenset(".!?…:;)]\"'”’")  # noqa: RUF001
ENOUGH_WORDS = 8
"""Minimum number of words for a typo rate and a language decision."""
ENGLISH_FROM = 0.7
"""Minimum share of dictionary words in English prose."""

_marks = Marks()


def words(text: str) -> list[str]:
    """Returns runs of letters and digits, with inner apostrophes and hyphens: "don't", "well-kept"."""
    return WORD.findall(text)


def count_words(text: str) -> int:
    """Returns len(words(text)), ten times faster for text that is ASCII except for its apostrophes."""
    straight = text.replace("’", "'")  # noqa: RUF001
    if straight.isascii():
        return _count_ascii(straight)
    lines = straight.split("\n")
    return sum(_count_ascii(line) if line.isascii() else len(words(line)) for line in lines)


def _count_ascii(text: str) -> int:
    # A word begins at a letter after a blank, or after an apostrophe or hyphen that joins nothing before it.
    kinds = b" " + text.encode("ascii").translate(KINDS_OF_BYTE)
    return kinds.count(b" a") + kinds.count(b" -a") + kinds.count(b"--a")


def starts_lower(text: str) -> bool | None:
    """Returns True if the first letter is lower case; None for a text without cased letters."""
    for character in text:
        if character.isalpha() and character.lower() != character.upper():
            return character.islower()
    return None


def is_question(text: str) -> bool:
    return "?" in text


def is_polite(text: str) -> bool:
    lower = text.lower()
    # A fast pre-check: every polite text has one of these.
    hinted = (
        "please" in lower
        or "thank" in lower
        or "pls" in lower
        or "plz" in lower
        or "thx" in lower
        or "sorry" in lower
        or "kindly" in lower
        or "appreciate" in lower
        or "would you mind" in lower
        or TY.search(lower) is not None
    )
    return hinted and POLITE.search(text) is not None


def ends_punctuated(text: str) -> bool:
    return text.rstrip()[-1:] in SENTENCE_ENDS


def share(flags: Sequence[bool | None]) -> float | None:
    """Returns the share of True among flags that are not None; None without any."""
    stated = [flag for flag in flags if flag is not None]
    return sum(stated) / len(stated) if stated else None


def measure(turns: Sequence[Turn]) -> Style:
    """Measures the style of the user turns among `turns`; all fields are None without user turns.

    Formulas: see `Style`.
    """
    texts = [turn.text for turn in turns if turn.role == "user"]
    if not texts:
        return Style()
    counts = [count_words(text) for text in texts]
    splits = [split(text) for text in texts]
    return Style(
        words_per_turn=float(median(counts)),
        opening_words=float(counts[0]),
        lowercase_starts=share([starts_lower(text) for text in texts]),
        questions=share([is_question(text) for text in texts]),
        politeness=share([is_polite(text) for text in texts]),
        end_punctuation=share([ends_punctuated(text) for text in texts]),
        turns=float(len(texts)),
        code_share=code_share(splits),
        expressive_marks=share([is_expressive(part.prose) for part in splits]),
        line_breaks=share(["\n" in text.strip() for text in texts]),
        length_spread=length_spread(counts),
        **_in_english(texts, [marks_of(part.prose) for part in splits]),
    )


def _in_english(texts: Sequence[str], marks: Sequence[str]) -> dict[str, float | None]:
    """Returns the attributes based on English word lists; empty for prose in another language."""
    if is_foreign("".join(marks)):
        return {}
    return {
        "typos": typos(marks),
        "imperatives": share([is_order(text) for text in texts]),
        "pushback": share([is_pushback(text) for text in texts[1:]]),
        "chat_speak": share(["c" in turn for turn in marks]),
        "first_person": share(["f" in turn for turn in marks]),
    }


def marks_of(prose: str) -> str:
    """Returns the concatenated marks of its tokens (`usersim.text.spelling.Marks`)."""
    return "".join(map(_marks.__getitem__, prose.split()))


def is_foreign(marks: str) -> bool:
    """Returns True if there are eight words or more and fewer than 70 % of them are in the dictionary."""
    latin = marks.count("w")
    total = latin + marks.count("x")
    return total >= ENOUGH_WORDS and latin - marks.count("u") < ENGLISH_FROM * total


def typos(marks: Sequence[str]) -> float | None:
    """Returns typos per 100 lower-case words of prose; None for fewer than eight words."""
    total = sum(turn.count("w") for turn in marks)
    if total < ENOUGH_WORDS or dictionary() is None:
        return None
    return 100 * sum(turn.count("t") for turn in marks) / total


def is_expressive(prose: str) -> bool:
    """Returns True if the prose has an exclamation mark, "??" or dots."""
    return "!" in prose or ".." in prose or "??" in prose or "…" in prose


def code_share(splits: Sequence[ProseAndCode]) -> float | None:
    characters = sum(part.characters for part in splits)
    return sum(part.code_characters for part in splits) / characters if characters else None


def length_spread(counts: Sequence[int]) -> float | None:
    """Returns the mean of |ln((1 + words) / (1 + median words))|; None for one turn.

    0.7 means that a turn is typically twice or half as long as the median.
    """
    if len(counts) < 2:
        return None
    middle = 1 + median(counts)
    return sum(abs(log((1 + count) / middle)) for count in counts) / len(counts)
