"""Large corpora made of real chats: copies with replaced words, so that few are duplicates."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from data_prep.raw_chats import RawChat
from data_prep.sources import open_source
from usersim.storage.records import atomic_writer

REWORDED = 0.4
"""Share of the words of user turns that are replaced by words of other people."""
SHORT_CHARS, SHORT_TURNS = 240, 6
"""Lengths to which chats of a large corpus are cut, so that a million of them fit on a disk."""


def real_chats(spec: str = "sharegpt", limit: int = 3000) -> list[RawChat]:
    return list(islice(open_source(spec).chats, limit))


def write_copies(path: Path, chats: Sequence[RawChat], count: int, *, short: bool, seed: int = 0) -> None:
    """Writes `count` chats as `messages` JSON Lines, cycling through `chats`."""
    with atomic_writer(path) as stream:
        for row in islice(copies(chats, short=short, seed=seed), count):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def copies(chats: Sequence[RawChat], *, short: bool, seed: int) -> Iterator[dict[str, object]]:
    rng = random.Random(seed)
    vocabulary = [word for chat in chats for text in chat.user_texts for word in text[:400].split()]
    number = 0
    while True:
        for chat in chats:
            turns = chat.turns[:SHORT_TURNS] if short else chat.turns
            messages = [
                {"role": t.role, "content": _content(t.text, t.role == "user", short, vocabulary, rng)}
                for t in turns
            ]
            yield {"id": f"{chat.id}-{number}", "messages": messages}
            number += 1


def _content(text: str, is_user: bool, short: bool, vocabulary: Sequence[str], rng: random.Random) -> str:
    if short:
        text = text[:SHORT_CHARS]
    return reworded(text, vocabulary, rng) if is_user else text


def reworded(text: str, vocabulary: Sequence[str], rng: random.Random) -> str:
    """Returns text of the same length and line layout, with at least two words replaced."""
    lines = [line.split(" ") for line in text.split("\n")]
    positions = [(i, j) for i, line in enumerate(lines) for j in range(len(line))]
    for i, j in rng.sample(positions, k=max(min(2, len(positions)), round(REWORDED * len(positions)))):
        lines[i][j] = vocabulary[rng.randrange(len(vocabulary))]
    return "\n".join(" ".join(line) for line in lines)
