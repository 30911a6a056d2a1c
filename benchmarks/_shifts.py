"""Small shifts planted in human conversations, to measure the power of a battery and its intervals."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from eval.fidelity.samples.features import user_texts
from usersim.text import style
from usersim.types import Conversation, Turn

PIECE = re.compile(r"\S+\s*")
MARK = re.compile(r"[.!?…]*\s*$")
Change = Callable[[str, np.random.Generator], str]


def wordier(people: Sequence[Conversation], seed: int, by: float = 0.25) -> list[Conversation]:
    """Returns conversations whose user turns have 25 % more words: a run of their own words repeated.

    The number of words is rounded at random, so that short turns grow as much on average.
    """

    def change(text: str, rng: np.random.Generator) -> str:
        pieces = PIECE.findall(text)
        extra = by * len(pieces)
        count = int(extra) + (rng.random() < extra % 1)
        if not count:
            return text
        start = int(rng.integers(len(pieces) - count + 1))
        run = pieces[start : start + count]
        if not run[-1][-1].isspace():
            run[-1] += " "
        return text[: len(text) - len(text.lstrip())] + "".join(pieces[:start] + run + pieces[start:])

    return _each_turn(people, seed, change)


def politer(people: Sequence[Conversation], seed: int, rate: float | None = None) -> list[Conversation]:
    """Returns conversations with twice the share of polite turns: some others get "please" before the final mark.

    Args:
        people: human conversations.
        seed: seed of the choice.
        rate: share in the population; by default it is measured in `people`, which makes them dependent.
    """
    if rate is None:
        rate = polite_share(people)
    chance = rate / max(1 - rate, rate)

    def change(text: str, rng: np.random.Generator) -> str:
        if style.is_polite(text) or rng.random() >= chance:
            return text
        mark = MARK.search(text)
        end = mark.start() if mark else len(text)
        return f"{text[:end]} please{text[end:]}"

    return _each_turn(people, seed, change)


def polite_share(people: Sequence[Conversation]) -> float:
    return fmean(fmean(map(style.is_polite, user_texts(c))) for c in people)


def shortened(people: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Returns conversations without the last user turn and all after it, where they have at least two."""
    return [_without_last(c) for c in people]


def _without_last(conversation: Conversation) -> Conversation:
    user_rows = [i for i, turn in enumerate(conversation.turns) if turn.role == "user"]
    if len(user_rows) < 2:
        return conversation
    return conversation.model_copy(update={"turns": conversation.turns[: user_rows[-1]]})


def _each_turn(people: Sequence[Conversation], seed: int, change: Change) -> list[Conversation]:
    rng = np.random.default_rng(seed)
    return [
        c.model_copy(
            update={
                "turns": tuple(
                    Turn(role="user", text=change(t.text, rng)) if t.role == "user" else t for t in c.turns
                )
            }
        )
        for c in people
    ]


SHIFTS: dict[str, tuple[Callable[[Sequence[Conversation], int], list[Conversation]], str]] = {
    "words per turn +25 %": (wordier, "words_per_turn.w1"),
    "politeness doubled": (politer, "politeness.w1"),
    "last turn dropped": (shortened, "user_turns.w1"),
}
"""Shifts, with the metric that each is aimed at."""
