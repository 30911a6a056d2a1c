"""Signatures of chats for deduplication: hashes of ids, openings, n-grams and user turns, and a MinHash.

A signature takes 568 bytes, 512 of them the MinHash, and 8 for each n-gram of the opening (at most 58).
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
"""Words at the start of an opening that give its n-grams. Templates stand at the front, pasted text after them."""
SHINGLE = 3
TURN_SHINGLES = 64
"""Shingles with the smallest hashes kept per turn, so that a pasted page does not outweigh the other turns."""
FEWEST_WORDS = 8
"""Least words of a near-duplicate. In a shorter chat one word makes another chat."""
FRONT_CHARS = 200
"""Characters of the front (words only). People whose chats share it copied it from one place."""
READ_CHARS = 1 << 16
"""Characters read per turn. The rest counts for exact duplicates only."""

# In scripts without spaces, each character is a word.
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[^\W_{UNSPACED}]+|[{UNSPACED}]")

ROW = np.dtype(
    [
        ("source", "u8"),
        ("id", "u8"),
        ("said", "u8"),  # all user turns
        ("opening", "u8"),
        ("front", "u8"),  # 0: too short
        ("person", "u8"),  # 0: unknown
        ("turns", "u4"),  # of the user
        ("ngrams", "u4"),  # number of n-grams
        ("minhash", "u4", (PERMUTATIONS,)),
    ]
)


@dataclass(frozen=True)
class Signatures:
    table: np.ndarray[Any, Any]
    """One ROW per chat."""
    ngrams: Hashes
    """N-grams of the openings of all chats in order, distinct within each."""

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
    """Returns the signatures of a batch of chats, each with at least one user turn.

    Args:
        batch: cleaned chats.
        near: compute MinHash sketches; otherwise only exact and template duplicates can be found.
    """
    table = np.zeros(len(batch), dtype=ROW)
    chats = [chat.user_texts for chat in batch]
    table["source"] = [hash64(chat.source) for chat in batch]
    table["id"] = [hash64(chat.id) for chat in batch]
    table["said"] = user_turn_hashes = [_hash_of_all(texts) for texts in chats]
    table["opening"] = [_hash_of_all(texts[:1]) for texts in chats]
    table["front"] = [front(texts) for texts in chats]
    # Without the source: releases of one corpus share the keys of people.
    table["person"] = [0 if chat.user_key is None else hash64(chat.user_key) for chat in batch]
    table["turns"] = [len(texts) for texts in chats]
    words = [[hash_words(text) for text in (texts if near else texts[:1])] for texts in chats]
    ngrams = [
        _ngrams(turns[0][:OPENING_WORDS], opening)
        for turns, opening in zip(words, table["opening"], strict=True)
    ]
    table["ngrams"] = [len(each) for each in ngrams]
    for row, (turns, turns_hash) in enumerate(zip(words, user_turn_hashes, strict=True) if near else ()):
        table["minhash"][row] = sketch(shingles(turns, turns_hash))
    return Signatures(table, np.concatenate([*ngrams, np.zeros(0, dtype=np.uint64)]))


def front(texts: Sequence[str]) -> int:
    """Returns the hash of the first FRONT_CHARS characters of the user turns, words only; 0 if there are fewer."""
    words = ""
    for text in texts:
        # Reads a long text in two steps; the first is mostly enough.
        for size in (4 * FRONT_CHARS, READ_CHARS):
            turn_words = " ".join(WORD.findall(text[:size].lower()))
            if len(turn_words) >= FRONT_CHARS or len(text) <= size:
                break
        words = f"{words} {turn_words}" if words else turn_words
        if len(words) >= FRONT_CHARS:
            return hash64(words[:FRONT_CHARS])
    return 0


def hash64(text: str) -> int:
    return xxh3_64_intdigest(text.encode())


def normalise(text: str) -> str:
    """Folds case and collapses spaces."""
    return " ".join(text.casefold().split())


def hash_words(text: str) -> Hashes:
    """Returns the hashes of the words, lower-cased and without punctuation."""
    # Joined and split again: one encoding for all words.
    tokens = " ".join(WORD.findall(text[:READ_CHARS].lower())).encode().split()
    return np.fromiter(map(xxh3_64_intdigest, tokens), dtype=np.uint64, count=len(tokens))


def shingles(turns: Iterable[Hashes], whole: int) -> Hashes:
    """Returns the shingle hashes of the user turns; `whole` (hash of all turns) replaces them for a very short chat."""
    turns = list(turns)
    if sum(len(turn) for turn in turns) < FEWEST_WORDS:
        return np.asarray([whole], dtype=np.uint64)
    return np.concatenate([_smallest(runs(turn, SHINGLE), TURN_SHINGLES) for turn in turns if len(turn)])


def runs(words: Hashes, length: int) -> Hashes:
    """Returns the hashes of all runs of `length` words, or of all words if there are fewer."""
    length = min(length, len(words))
    combined = words[: len(words) - length + 1].copy()
    for offset in range(1, length):
        combined *= _MULTIPLIER
        combined += words[offset : len(words) - length + 1 + offset]
    return _mixed(combined + np.uint64(length))


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def _mixed(hashes: Hashes) -> Hashes:
    """Mixes hashes so that every input bit reaches every output bit; low bits and size order are used later."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return hashes ^ (hashes >> np.uint64(32))


def _smallest(hashes: Hashes, count: int) -> Hashes:
    return hashes if len(hashes) <= count else np.unique(hashes)[:count]


def _ngrams(words: Hashes, opening: int) -> Hashes:
    """Returns the distinct n-grams of an opening. One without words (`???`) is its own n-gram."""
    return np.unique(runs(words, NGRAM)) if len(words) else np.asarray([opening], dtype=np.uint64)


def _hash_of_all(texts: Sequence[str]) -> int:
    """Hashes all texts, in pieces: at once, a long text would take many times its size in memory."""
    state = xxh3_64()
    for text in texts:
        for start in range(0, len(text), READ_CHARS):
            state.update(normalise(text[start : start + READ_CHARS]).encode())
        state.update(b"\x1f")
    return state.intdigest()
