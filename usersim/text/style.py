"""How somebody writes, measured from their own turns.

The same numbers condition the model in training, describe personas in prose, and score control in `eval`.
The word lists are English: where the prose is plainly of another language, what they measure is None. All but
length, questions, politeness and how a turn ends look at the first 1,000 characters of a turn
(`usersim.text.code_blocks`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import log
from statistics import median

from usersim.text.code_blocks import Split, split
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
"""Looked-at words below which a typo rate and the language are not told."""
ENGLISH_FROM = 0.7
"""Share of dictionary words from which prose counts as English."""

_marks = Marks()


def words(text: str) -> list[str]:
    """Runs of letters and digits, inner apostrophes and hyphens kept: "don't", "well-kept"."""
    return WORD.findall(text)


def count_words(text: str) -> int:
    """len(words(text)), ten times faster for text that is ASCII but for its apostrophes."""
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
    """Whether the first letter is lower case; None where the text has no cased letter."""
    for character in text:
        if character.isalpha() and character.lower() != character.upper():
            return character.islower()
    return None


def is_question(text: str) -> bool:
    return "?" in text


def is_polite(text: str) -> bool:
    lower = text.lower()
    # Far faster than the expression: one of these is in every polite text.
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
    """Share of True among those that are not None; None when there are none."""
    known = [flag for flag in flags if flag is not None]
    return sum(known) / len(known) if known else None


def measure(turns: Sequence[Turn]) -> Style:
    """Style of the user turns among `turns`; every field None when there are none. Formulas: see `Style`."""
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
    """What the English word lists measure; nothing where the prose is of another language."""
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
    """The marks of its tokens, end to end; see `usersim.text.spelling.Marks`."""
    return "".join(map(_marks.__getitem__, prose.split()))


def is_foreign(marks: str) -> bool:
    """Eight words or more, fewer than 70 % of them in the dictionary."""
    latin = marks.count("w")
    seen = latin + marks.count("x")
    return seen >= ENOUGH_WORDS and latin - marks.count("u") < ENGLISH_FROM * seen


def typos(marks: Sequence[str]) -> float | None:
    """Per 100 lower-case words of prose; None for fewer than eight of them."""
    seen = sum(turn.count("w") for turn in marks)
    if seen < ENOUGH_WORDS or dictionary() is None:
        return None
    return 100 * sum(turn.count("t") for turn in marks) / seen


def is_expressive(prose: str) -> bool:
    """An exclamation mark, "??" or dots: marks that carry a tone."""
    return "!" in prose or ".." in prose or "??" in prose or "…" in prose


def code_share(splits: Sequence[Split]) -> float | None:
    characters = sum(part.characters for part in splits)
    return sum(part.code_characters for part in splits) / characters if characters else None


def length_spread(counts: Sequence[int]) -> float | None:
    """Mean of |ln((1 + words) / (1 + median words))|; None for one turn. 0.7: typically twice or half as long."""
    if len(counts) < 2:
        return None
    middle = 1 + median(counts)
    return sum(abs(log((1 + count) / middle)) for count in counts) / len(counts)
