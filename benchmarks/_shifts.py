"""Small shifts planted in human conversations: what a battery should see, and how an interval is checked."""

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
    """Every turn has 25 % more words: a run of its own words said twice. Rounded at random, so that short turns
    grow as much on average."""

    def change(text: str, rng: np.random.Generator) -> str:
        pieces = PIECE.findall(text)
        more = by * len(pieces)
        count = int(more) + (rng.random() < more % 1)
        if not count:
            return text
        start = int(rng.integers(len(pieces) - count + 1))
        run = pieces[start : start + count]
        if not run[-1][-1].isspace():
            run[-1] += " "
        return text[: len(text) - len(text.lstrip())] + "".join(pieces[:start] + run + pieces[start:])

    return _each_turn(people, seed, change)


def politer(people: Sequence[Conversation], seed: int, rate: float | None = None) -> list[Conversation]:
    """Twice the share of polite turns: "please" before the final mark of some of the others.

    `rate`: their share so far, where it is known of the whole population; else it is taken from `people`, and then
    these conversations are no longer independent of each other.
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
    """The last user turn is gone, and all that followed it, where there are two at least."""
    return [_without_last(c) for c in people]


def _without_last(conversation: Conversation) -> Conversation:
    places = [i for i, turn in enumerate(conversation.turns) if turn.role == "user"]
    if len(places) < 2:
        return conversation
    return conversation.model_copy(update={"turns": conversation.turns[: places[-1]]})


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
"""With the figure that each is aimed at."""
