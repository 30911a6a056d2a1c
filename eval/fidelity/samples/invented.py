"""Synthetic conversations with known differences, for tests and benchmarks in place of real chat text."""

from __future__ import annotations

from typing import Literal

import numpy as np

from usersim.stats.estimates import rng_for
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
    lower: float = 0.4,
    questions: float = 0.3,
    stops: float = 0.5,
    per_person: int = 1,
) -> list[Conversation]:
    """Returns `n` synthetic conversations of people with their own habits.

    `words` scales the length of turns, `leave` is P(end) per turn. `lower` and `stops` are the shares of people
    who start in lower case and end with a full stop. Each person has `per_person` conversations on one matter;
    with several, the records name the person.
    """
    rng = rng_for(seed, "invented")
    conversations: list[Conversation] = []
    while len(conversations) < n:
        person = f"{seed}-{len(conversations) // per_person}"
        habits = words * rng.lognormal(2.2, 0.7), rng.random() < lower, rng.random() < stops
        for _ in range(min(per_person, n - len(conversations))):
            turns = _turns(habits, rng, politeness, leave, cap, questions)
            conversations.append(
                _record(f"{seed}-{len(conversations)}", person, origin, turns, cap, several=per_person > 1)
            )
    return conversations


def _turns(
    habits: tuple[float, bool, bool],
    rng: np.random.Generator,
    politeness: float,
    leave: float,
    cap: int,
    questions: float,
) -> list[Turn]:
    length, lower, stops = habits
    turns: list[Turn] = []
    for _ in range(min(cap, int(rng.geometric(leave)))):
        text = " ".join(rng.choice(WORDS, size=1 + rng.poisson(length)))
        text = f"please {text}" if rng.random() < politeness else text
        text = text if lower else text[0].upper() + text[1:]
        end = "?" if rng.random() < questions else "." if stops else ""
        turns.append(Turn(role="user", text=text + end))
        turns.append(Turn(role="assistant", text=" ".join(rng.choice(WORDS, size=12))))
    return turns


def _record(
    name: str,
    person: str,
    origin: Literal["human", "simulated"],
    turns: list[Turn],
    cap: int,
    *,
    several: bool,
) -> Conversation:
    return Conversation(
        id=name,
        origin=origin,
        source="invented",
        turns=tuple(turns),
        profile=UserProfile(
            goal=Goal(summary=f"settle matter {person}"), persona=Persona(description="invented")
        ),
        ended_by="user" if len(turns) < 2 * cap else "turn_cap",
        user=person if several and origin == "human" else None,
    )
