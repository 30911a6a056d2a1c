"""Openings that many people share: n-grams counted over conversations, exactly, in a fixed amount of memory."""

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
"""2^25 counters of 4 bytes: 128 MiB. Two n-grams in one counter cost a little memory and change no result,
because those that pass are counted again, each for itself."""

SHARE = 0.5
"""Of the n-grams of an opening: less is a stock phrase in a text of its own."""


def template_of(parts: Sequence[Part], counted: Bools, more_than: int) -> tuple[Hashes, dict[str, int]]:
    """Of each chat whose opening is mostly n-grams of `more_than` counted chats the rarest of those, else 0.

    The rarest is what the copies of one template share; the most frequent would put all that begin with
    "I want you to act as a" behind one of them. The second result counts.
    """
    often, counts = _frequent(parts, counted, more_than)
    keys = np.zeros(len(counted), dtype=np.uint64)
    for rows, ngrams in _ngrams(parts, counted) if len(often) else ():
        place = np.searchsorted(often, ngrams).clip(max=len(often) - 1)
        hit = often[place] == ngrams
        _, own, sizes = np.unique(rows, return_inverse=True, return_counts=True)
        hit &= (np.bincount(own, weights=hit) / sizes)[own] >= SHARE
        rows, place = rows[hit], place[hit]
        # The last written stays: the rarest, of equally rare ones the smallest hash.
        order = np.lexsort((-place, -counts[place]))
        keys[rows[order]] = often[place[order]]
    return keys, {"template_ngrams": len(often), "chats_with_a_template": int(np.count_nonzero(keys))}


def _frequent(parts: Sequence[Part], counted: Bools, more_than: int) -> tuple[Hashes, Ints]:
    """Those n-grams, sorted, and how many chats each stands in."""
    shift = np.uint64(64 - COUNTERS)
    counters = np.zeros(1 << COUNTERS, dtype=np.uint32)
    for _, ngrams in _ngrams(parts, counted):
        np.add.at(counters, ngrams >> shift, 1)
    found, counts = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for _, ngrams in _ngrams(parts, counted):
        distinct, times = np.unique(ngrams[counters[ngrams >> shift] > more_than], return_counts=True)
        found.append(distinct)
        counts.append(times)
    distinct, inverse = np.unique(np.concatenate(found), return_inverse=True)
    total = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(total, inverse, np.concatenate(counts))
    return distinct[total > more_than], total[total > more_than]


def _ngrams(parts: Sequence[Part], counted: Bools) -> Iterator[tuple[Ints, Hashes]]:
    """For each part the n-grams of its counted chats, with the rows of the chats."""
    start = 0
    for part in parts:
        signatures = part()
        rows = np.repeat(start + np.arange(len(signatures.table)), signatures.table["ngrams"])
        start += len(signatures.table)
        kept = counted[rows]
        yield rows[kept], signatures.ngrams[kept]
