"""Source material of planted users: chats of the given conversations, and helpers to rewrite turns one by one."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from eval.fidelity.samples.matching import person_of
from eval.next_turn.prefixes import Prefix
from eval.next_turn.turns import NextTurn, SimulatedTurns
from usersim.errors import DataError
from usersim.stats.estimates import rng_for
from usersim.types import Conversation, Goal

FOLDS = 5
TOKEN = re.compile(r"\S+")


@dataclass(frozen=True)
class ChatTurns:
    """Conversation as planted users read it: the person's turns and the goal."""

    name: str
    cluster: str
    source: str
    goal: Goal | None
    turns: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """Source material of planted users."""

    prefixes: tuple[Prefix, ...]
    """All prefixes of the given conversations, closing ones included."""
    training: tuple[Conversation, ...] = ()
    """Training conversations of the simulator under test; None: the given conversations."""
    prompted: Path | None = None
    """Precomputed turns of a prompted base model."""

    @cached_property
    def chats(self) -> dict[str, ChatTurns]:
        longest: dict[str, Prefix] = {}
        for prefix in self.prefixes:
            last = longest.get(prefix.conversation)
            if last is None or prefix.position > last.position:
                longest[prefix.conversation] = prefix
        return {name: _chat(prefix) for name, prefix in longest.items()}

    @cached_property
    def training_chats(self) -> list[ChatTurns]:
        return [
            ChatTurns(
                c.id,
                person_of(c),
                c.source,
                c.profile.goal,
                tuple(t.text for t in c.turns if t.role == "user"),
                (),
            )
            for c in self.training
            if c.turns and c.turns[0].role == "user"
        ]

    @cached_property
    def by_position(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """(cluster, turn) by source and class of position; source `*` has all."""
        turns: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for chat in self.chats.values():
            for number, text in enumerate(chat.turns, start=1):
                for source in (chat.source, "*"):
                    turns[source, _position_class(number)].append((chat.cluster, text))
                    turns[source, "later" if number > 1 else "opening"].append((chat.cluster, text))
        return dict(turns)

    def another(
        self, prefix: Prefix, rng: np.random.Generator, fits: Callable[[str], bool] | None = None
    ) -> str:
        """Returns another person's turn at a similar position, of the same source and number if possible.

        Raises:
            DataError: No other person has such a turn.
        """
        coarse = "later" if prefix.position > 1 else "opening"
        for kind in (_position_class(prefix.position), coarse):
            for source in (prefix.source, "*"):
                donors = self.by_position.get((source, kind), [])
                for index in rng.integers(0, len(donors), 20) if donors else ():
                    if donors[index][0] != prefix.cluster and (fits is None or fits(donors[index][1])):
                        return str(donors[index][1])
                suitable = [t for c, t in donors if c != prefix.cluster and (fits is None or fits(t))]
                if suitable:
                    return suitable[int(rng.integers(len(suitable)))]
        raise DataError("no other person has a turn at a like position")

    def others_of(self, cluster: str) -> list[ChatTurns]:
        return [chat for chat in self.chats.values() if chat.cluster != cluster]

    def fold_of(self, seed: int) -> dict[str, int]:
        """Returns the fold of every cluster."""
        names = sorted({prefix.cluster for prefix in self.prefixes})
        order = rng_for(seed, "folds of planted users").permutation(len(names))
        return {name: int(rank % FOLDS) for name, rank in zip(names, order, strict=True)}


@dataclass(frozen=True)
class PlantedTurns:
    """Planted user with the people that it is compared with."""

    name: str
    prefixes: tuple[Prefix, ...]
    """The given prefixes; for the positive control, with other ends."""
    turns: SimulatedTurns

    @cached_property
    def changed(self) -> float:
        """Share of its turns that differ from the person's, among prefixes where both wrote one."""
        both = [(p.text, text) for p in self.prefixes if p.text and (text := self.turns.text(p))]
        return sum(own != text for own, text in both) / len(both) if both else 0.0


Planter = Callable[[Sequence[Prefix], Material, int], SimulatedTurns]
Rewrite = Callable[[Prefix, np.random.Generator], str]
"""Function from a prefix to the planted user's turn there. Raises DataError if it has none."""


def _chat(prefix: Prefix) -> ChatTurns:
    history = tuple(t.text for t in prefix.history if t.role == "user")
    return ChatTurns(
        prefix.conversation,
        prefix.cluster,
        prefix.source,
        prefix.goal,
        history if prefix.text is None else (*history, prefix.text),
        tuple(t.text for t in prefix.history if t.role == "assistant"),
    )


def rewrite_turns(
    name: str, prefixes: Sequence[Prefix], seed: int, rewrite: Rewrite, note: str = ""
) -> SimulatedTurns:
    turns, failed = dict[str, NextTurn](), Counter[str]()
    for prefix in prefixes:
        if prefix.has_left:
            turns[prefix.id] = NextTurn(prefix=prefix.id, ends=True)
            continue
        try:
            text = rewrite(prefix, turn_rng(seed, name, prefix))
        except DataError as error:
            failed[str(error)] += 1
        else:
            turns[prefix.id] = NextTurn(prefix=prefix.id, text=text)
    if failed and not any(turn.text for turn in turns.values()):
        turns = {}
    return SimulatedTurns(name, turns, dict(failed), note)


def turn_rng(seed: int, name: str, prefix: Prefix, purpose: str = "") -> np.random.Generator:
    return rng_for(seed, f"planted {name} {purpose} {prefix.id}")


def _position_class(position: int) -> str:
    return str(position) if position < 5 else "5 to 8" if position < 9 else "9+"


def choose_text(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
