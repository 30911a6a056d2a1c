"""Template openings: exact n-gram counts over conversations, in a fixed amount of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from data_prep.dedup.signatures import Signatures

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Part = Callable[[], Signatures]

COUNTERS = 25
"""Log2 of the number of 4-byte counters (128 MiB). A collision changes no result: n-grams above the threshold are
counted again exactly."""

SHARE = 0.5
"""Least share of an opening's n-grams that must be frequent. A lower share is a stock phrase in an original text."""


def template_of(parts: Sequence[Part], counted: Bools, more_than: int) -> tuple[Hashes, dict[str, int]]:
    """Returns the template of each chat: its rarest frequent n-gram, or 0.

    A chat has a template if most n-grams of its opening occur in more than `more_than` counted chats. The rarest of
    them is what copies of one template share. The most frequent would merge all chats that begin with "I want you to
    act as a".

    Args:
        parts: signatures of the shards.
        counted: chats that count.
        more_than: chats above which an n-gram is frequent.

    Returns:
        The template n-gram of each chat, and counts for the datasheet.
    """
    frequent, counts = _frequent(parts, counted, more_than)
    keys = np.zeros(len(counted), dtype=np.uint64)
    for rows, ngrams in _ngrams(parts, counted) if len(frequent) else ():
        index = np.searchsorted(frequent, ngrams).clip(max=len(frequent) - 1)
        hit = frequent[index] == ngrams
        _, chat, sizes = np.unique(rows, return_inverse=True, return_counts=True)
        hit &= (np.bincount(chat, weights=hit) / sizes)[chat] >= SHARE
        rows, index = rows[hit], index[hit]
        # The last assignment wins: the rarest n-gram, and the smallest hash among equals.
        order = np.lexsort((-index, -counts[index]))
        keys[rows[order]] = frequent[index[order]]
    return keys, {"template_ngrams": len(frequent), "chats_with_a_template": int(np.count_nonzero(keys))}


def _frequent(parts: Sequence[Part], counted: Bools, more_than: int) -> tuple[Hashes, Ints]:
    """Returns the frequent n-grams, sorted, and the number of chats that contain each."""
    shift = np.uint64(64 - COUNTERS)
    counters = np.zeros(1 << COUNTERS, dtype=np.uint32)
    for _, ngrams in _ngrams(parts, counted):
        np.add.at(counters, ngrams >> shift, 1)
    ngram_parts, count_parts = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for _, ngrams in _ngrams(parts, counted):
        distinct, occurrences = np.unique(ngrams[counters[ngrams >> shift] > more_than], return_counts=True)
        ngram_parts.append(distinct)
        count_parts.append(occurrences)
    distinct, inverse = np.unique(np.concatenate(ngram_parts), return_inverse=True)
    total = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(total, inverse, np.concatenate(count_parts))
    return distinct[total > more_than], total[total > more_than]


def _ngrams(parts: Sequence[Part], counted: Bools) -> Iterator[tuple[Ints, Hashes]]:
    """Yields, per part, the rows of the counted chats and their n-grams."""
    start = 0
    for part in parts:
        signatures = part()
        rows = np.repeat(start + np.arange(len(signatures.table)), signatures.table["ngrams"])
        start += len(signatures.table)
        selected = counted[rows]
        yield rows[selected], signatures.ngrams[selected]
