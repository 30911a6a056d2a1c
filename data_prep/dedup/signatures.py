"""What is kept of a chat to find its duplicates: hashes of ids, openings, n-grams and user turns, and a MinHash.

568 bytes a chat, 512 of them the MinHash, and 8 for each n-gram of the opening, of which there are at most 58.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from data_prep.dedup.minhash import PERMUTATIONS, sketch
from data_prep.raw_chats import RawChat
from usersim.storage.records import atomic_writer

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

NGRAM = 7
OPENING_WORDS = 64
"""N-grams are of the first words of an opening: a template stands at the front, what is pasted comes after."""
SHINGLE = 3
TURN_SHINGLES = 64
"""Shingles taken of a turn, those of the smallest hash: else a pasted page would drown what is said about it."""
FEWEST_WORDS = 8
"""A chat of fewer is nobody's near-duplicate: one other word makes it another chat."""
FRONT_CHARS = 200
"""Two who begin with as many of the same characters, words only, have copied them from one place."""
READ_CHARS = 1 << 16
"""Of a turn; what comes after counts for exact duplicates only."""

# A script without spaces gives one word a character.
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[^\W_{UNSPACED}]+|[{UNSPACED}]")

ROW = np.dtype(
    [
        ("source", "u8"),
        ("id", "u8"),
        ("said", "u8"),  # all user turns
        ("opening", "u8"),
        ("front", "u8"),  # 0: too short
        ("person", "u8"),  # 0: not known
        ("turns", "u4"),  # of the user
        ("ngrams", "u4"),  # how many
        ("minhash", "u4", (PERMUTATIONS,)),
    ]
)


@dataclass(frozen=True)
class Signatures:
    table: np.ndarray[Any, Any]
    """One ROW a chat."""
    ngrams: Hashes
    """Of the openings, distinct within each, all chats' one after another."""

    @classmethod
    def concat(cls, parts: Sequence[Signatures]) -> Signatures:
        if not parts:
            return cls(np.zeros(0, dtype=ROW), np.zeros(0, dtype=np.uint64))
        return cls(np.concatenate([p.table for p in parts]), np.concatenate([p.ngrams for p in parts]))

    def save(self, path: Path) -> None:
        with atomic_writer(path, "wb") as stream:
            np.savez(stream, table=self.table, ngrams=self.ngrams)

    @classmethod
    def load(cls, path: Path) -> Signatures:
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["table"], stored["ngrams"])


def sign(batch: Sequence[RawChat], *, near: bool = True) -> Signatures:
    """Every chat has a user turn. Without `near`, only what exact and template duplicates are told by."""
    table = np.zeros(len(batch), dtype=ROW)
    chats = [chat.user_texts for chat in batch]
    table["source"] = [hash64(chat.source) for chat in batch]
    table["id"] = [hash64(chat.id) for chat in batch]
    table["said"] = said = [_hash_of_all(texts) for texts in chats]
    table["opening"] = [_hash_of_all(texts[:1]) for texts in chats]
    table["front"] = [front(texts) for texts in chats]
    # Without the source: the releases of one corpus name a person alike.
    table["person"] = [0 if chat.user_key is None else hash64(chat.user_key) for chat in batch]
    table["turns"] = [len(texts) for texts in chats]
    words = [[hash_words(text) for text in (texts if near else texts[:1])] for texts in chats]
    ngrams = [
        _ngrams(turns[0][:OPENING_WORDS], opening)
        for turns, opening in zip(words, table["opening"], strict=True)
    ]
    table["ngrams"] = [len(each) for each in ngrams]
    for row, (turns, whole) in enumerate(zip(words, said, strict=True) if near else ()):
        table["minhash"][row] = sketch(shingles(turns, whole))
    return Signatures(table, np.concatenate([*ngrams, np.zeros(0, dtype=np.uint64)]))


def front(texts: Sequence[str]) -> int:
    """Hash of the first words of what the person says, over turns where the opening is short; 0 for too few."""
    words = ""
    for text in texts:
        # Most of a long text is never needed.
        for size in (4 * FRONT_CHARS, READ_CHARS):
            more = " ".join(WORD.findall(text[:size].lower()))
            if len(more) >= FRONT_CHARS or len(text) <= size:
                break
        words = f"{words} {more}" if words else more
        if len(words) >= FRONT_CHARS:
            return hash64(words[:FRONT_CHARS])
    return 0


def hash64(text: str) -> int:
    return xxh3_64_intdigest(text.encode())


def normalise(text: str) -> str:
    """Case and spacing do not make a text different."""
    return " ".join(text.casefold().split())


def hash_words(text: str) -> Hashes:
    """Lower-cased, without punctuation."""
    # Joined and split again: one encoding for all words.
    found = " ".join(WORD.findall(text[:READ_CHARS].lower())).encode().split()
    return np.fromiter(map(xxh3_64_intdigest, found), dtype=np.uint64, count=len(found))


def shingles(turns: Iterable[Hashes], whole: int) -> Hashes:
    """What near-duplicates have in common; `whole` stands for a chat of very few words."""
    turns = list(turns)
    if sum(len(turn) for turn in turns) < FEWEST_WORDS:
        return np.asarray([whole], dtype=np.uint64)
    return np.concatenate([_smallest(runs(turn, SHINGLE), TURN_SHINGLES) for turn in turns if len(turn)])


def runs(words: Hashes, length: int) -> Hashes:
    """Hashes of all runs of so many words; of all the words where there are fewer."""
    length = min(length, len(words))
    combined = words[: len(words) - length + 1].copy()
    for offset in range(1, length):
        combined *= _MULTIPLIER
        combined += words[offset : len(words) - length + 1 + offset]
    return _mixed(combined + np.uint64(length))


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit of the input reaches every bit: low bits are taken alone, and compared for size."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return hashes ^ (hashes >> np.uint64(32))


def _smallest(hashes: Hashes, count: int) -> Hashes:
    return hashes if len(hashes) <= count else np.unique(hashes)[:count]


def _ngrams(words: Hashes, opening: int) -> Hashes:
    """An opening without words (`???`) is its own n-gram."""
    return np.unique(runs(words, NGRAM)) if len(words) else np.asarray([opening], dtype=np.uint64)


def _hash_of_all(texts: Sequence[str]) -> int:
    """A long text in pieces: as one it would take many times its size in memory."""
    state = xxh3_64()
    for text in texts:
        for start in range(0, len(text), READ_CHARS):
            state.update(normalise(text[start : start + READ_CHARS]).encode())
        state.update(b"\x1f")
    return state.intdigest()
