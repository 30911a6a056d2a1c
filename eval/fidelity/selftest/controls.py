"""Planted faults: conversations whose distance from human is known beforehand."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from usersim.stats.estimates import rng_for
from usersim.types import Conversation, Turn

COLLAPSED = 20
"""Conversations that a collapsed simulator knows."""
TYPO_EVERY = 12
"""Words per typo of the surface attack."""
LAST_MARK = re.compile(r"[.!?…]+$")


def as_simulated(conversations: Sequence[Conversation], source: str) -> list[Conversation]:
    return [c.model_copy(update={"origin": "simulated", "source": source}) for c in conversations]


def collapsed(conversations: Sequence[Conversation], n: int, seed: int) -> list[Conversation]:
    """`COLLAPSED` of them again and again, `n` in all. A copy keeps goal and group, so that no classifier learns it
    on one side of a fold and meets it on the other."""
    order = rng_for(seed, "collapse").permutation(len(conversations))[:COLLAPSED]
    few = [conversations[i] for i in order]
    return [
        c.model_copy(update={"id": f"{c.id}#{copy}", "group": c.group or c.id})
        for copy in range(-(-n // len(few)))
        for c in few
    ][:n]


def shuffled(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """User turns swapped between conversations at the same place: the first stays a first one, the second a second
    one. Every turn is human, every conversation has its length; nothing hangs together."""
    rng = rng_for(seed, "shuffle")
    turns = [list(c.turns) for c in conversations]
    places = [[i for i, turn in enumerate(row) if turn.role == "user"] for row in turns]
    for position in range(max(map(len, places), default=0)):
        owners = [index for index, found in enumerate(places) if len(found) > position]
        texts = [turns[index][places[index][position]].text for index in owners]
        for index, source in zip(owners, _derangement(len(owners), rng), strict=True):
            turns[index][places[index][position]] = Turn(role="user", text=texts[source])
    return [c.model_copy(update={"turns": tuple(row)}) for c, row in zip(conversations, turns, strict=True)]


def disguised(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Lower case, no final mark, a typo in every twelfth word: what a prompt can do to look human at a glance."""
    return [
        c.model_copy(update={"turns": tuple(_disguised(t, rng_for(seed, t.text)) for t in c.turns)})
        for c in conversations
    ]


def _derangement(n: int, rng: np.random.Generator) -> list[int]:
    """A random cyclic order: nothing stays in its place, where there are two at least."""
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
    """Two neighbours swapped, a letter dropped or doubled; words below four letters stay."""
    if len(word) < 4:
        return word
    at = int(rng.integers(1, len(word) - 1))
    kinds = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
    )
    return kinds[int(rng.integers(3))]
