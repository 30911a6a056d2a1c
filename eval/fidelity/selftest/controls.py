"""Controls of the self-test: conversations with planted faults, whose distance from human is known."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from usersim.stats.estimates import rng_for
from usersim.types import Conversation, Turn

COLLAPSED = 20
"""Conversations that a collapsed simulator repeats."""
TYPO_EVERY = 12
"""Words per typo of the surface attack."""
LAST_MARK = re.compile(r"[.!?…]+$")


def as_simulated(conversations: Sequence[Conversation], source: str) -> list[Conversation]:
    return [c.model_copy(update={"origin": "simulated", "source": source}) for c in conversations]


def collapsed(conversations: Sequence[Conversation], n: int, seed: int) -> list[Conversation]:
    """Repeats `COLLAPSED` of the conversations until there are `n`. A copy keeps goal and group, so that no classifier
    sees it in training and test."""
    order = rng_for(seed, "collapse").permutation(len(conversations))[:COLLAPSED]
    repeated = [conversations[i] for i in order]
    return [
        c.model_copy(update={"id": f"{c.id}#{copy}", "group": c.group or c.id})
        for copy in range(-(-n // len(repeated)))
        for c in repeated
    ][:n]


def shuffled(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Swaps user turns between conversations at the same position: a first turn stays first, a second one second. Every
    turn is human and every conversation keeps its length, but the turns do not belong together."""
    rng = rng_for(seed, "shuffle")
    turns = [list(c.turns) for c in conversations]
    positions_by_row = [[i for i, turn in enumerate(row) if turn.role == "user"] for row in turns]
    for position in range(max(map(len, positions_by_row), default=0)):
        owners = [index for index, row in enumerate(positions_by_row) if len(row) > position]
        texts = [turns[index][positions_by_row[index][position]].text for index in owners]
        for index, source in zip(owners, _derangement(len(owners), rng), strict=True):
            turns[index][positions_by_row[index][position]] = Turn(role="user", text=texts[source])
    return [c.model_copy(update={"turns": tuple(row)}) for c, row in zip(conversations, turns, strict=True)]


def disguised(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Writes user turns in lower case, without final marks, with a typo in every twelfth word: a prompt can do as much
    to look human."""
    return [
        c.model_copy(update={"turns": tuple(_disguised(t, rng_for(seed, t.text)) for t in c.turns)})
        for c in conversations
    ]


def _derangement(n: int, rng: np.random.Generator) -> list[int]:
    """Returns a random cyclic permutation: for n ≥ 2 no element keeps its position."""
    order = rng.permutation(n)
    target = np.empty(n, dtype=np.int64)
    target[order] = np.roll(order, 1)
    return [int(index) for index in target]


def _disguised(turn: Turn, rng: np.random.Generator) -> Turn:
    if turn.role != "user":
        return turn
    pieces = re.findall(r"\s+|\S+", LAST_MARK.sub("", turn.text.lower().rstrip()))
    return Turn(
        role="user",
        text="".join(_typo(p, rng) if p.isalpha() and rng.random() < 1 / TYPO_EVERY else p for p in pieces),
    )


def _typo(word: str, rng: np.random.Generator) -> str:
    """Swaps two neighbouring letters, or drops or doubles one; words below four letters stay."""
    if len(word) < 4:
        return word
    position = int(rng.integers(1, len(word) - 1))
    kinds = (
        word[:position] + word[position + 1] + word[position] + word[position + 2 :],
        word[:position] + word[position + 1 :],
        word[:position] + word[position] + word[position:],
    )
    return kinds[int(rng.integers(3))]
