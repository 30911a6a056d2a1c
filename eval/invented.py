"""Invented conversations with known differences: what tests and benchmarks plant instead of real chat text."""

from __future__ import annotations

from typing import Literal

import numpy as np

from eval.estimates import rng_for
from usersim.types import Conversation, Goal, Persona, Turn, UserProfile

WORDS = """
the a my it this that how what why can make list table code error file plan trip cheap train soup
garden essay about with for from into and but shorter again explain fix write more less example
number row week dinner letter boss friend python function loop test plot chart word sentence
""".split()  # noqa: SIM905 - a list would take sixty lines


def invented(
    n: int,
    seed: int,
    *,
    origin: Literal["human", "simulated"] = "human",
    words: float = 1.0,
    politeness: float = 0.12,
    leave: float = 0.35,
    cap: int = 8,
) -> list[Conversation]:
    """`n` people, each with habits of his own; `words` scales the length of turns, `leave` is P(end) per turn."""
    rng = rng_for(seed, "invented")
    return [_conversation(f"{seed}-{i}", rng, origin, words, politeness, leave, cap) for i in range(n)]


def _conversation(
    name: str,
    rng: np.random.Generator,
    origin: Literal["human", "simulated"],
    words: float,
    politeness: float,
    leave: float,
    cap: int,
) -> Conversation:
    length, lower, stops = words * rng.lognormal(2.2, 0.7), rng.random() < 0.4, rng.random() < 0.5
    turns: list[Turn] = []
    for _ in range(min(cap, int(rng.geometric(leave)))):
        text = " ".join(rng.choice(WORDS, size=1 + rng.poisson(length)))
        text = f"please {text}" if rng.random() < politeness else text
        text = text if lower else text[0].upper() + text[1:]
        turns.append(Turn(role="user", text=text + ("?" if rng.random() < 0.3 else "." if stops else "")))
        turns.append(Turn(role="assistant", text=" ".join(rng.choice(WORDS, size=12))))
    return Conversation(
        id=name,
        origin=origin,
        source="invented",
        turns=tuple(turns),
        profile=UserProfile(
            goal=Goal(summary=f"settle matter {name}"), persona=Persona(description="invented")
        ),
        ended_by="user" if len(turns) < 2 * cap else "turn_cap",
    )
