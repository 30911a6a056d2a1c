"""Near-duplicate detection by MinHash bands: pairs in a band are checked, the first of a cluster is kept.

datasketch's LSH of the same bands takes 10.7 KB a chat, 10 GiB at a million. Sorting one band at a time takes 150
bytes a chat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.dedup.groups import components
from data_prep.dedup.minhash import PERMUTATIONS, Sketches, alike

Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Hashes = np.ndarray[Any, np.dtype[np.uint64]]

ROWS = 4
BANDS = PERMUTATIONS // ROWS
"""Bands. A pair of similarity s shares a band with probability 1 - (1 - s^4)^32: 0.99 at 0.6, 0.998 at 0.65."""
NEIGHBOURS = 8
"""Chats before it that each chat of a band is compared with, besides the first; keeps time linear."""
ROUNDS = 1000
"""Most chats kept per cluster by comparison. Chats still undecided after that are kept too."""


def clusters(sketches: Sketches, threshold: float) -> Ints:
    """Returns the cluster label of each chat: connected components of the pairs that were compared and alike."""
    count = len(sketches)
    labels: Ints = np.arange(count)
    one, other = [labels[:0]], [labels[:0]]
    for band in range(BANDS):
        for left, right in _candidates(_band_keys(sketches, band)):
            # Pairs of one cluster need no further comparison.
            apart = labels[left] != labels[right]
            left, right = left[apart], right[apart]
            matches = alike(sketches, left, sketches, right, threshold)
            if matches.any():
                one.append(left[matches])
                other.append(right[matches])
                labels = components(count, np.concatenate(one), np.concatenate(other))
    return labels


def leaders(sketches: Sketches, labels: Ints, rank: Ints, threshold: float) -> tuple[Ints, int]:
    """Returns the kept chat that each chat is alike, and the number of undecided chats.

    A chat is dropped only for a kept chat that it is alike itself; a connection through others is not enough.

    Args:
        sketches: sketches of the chats.
        labels: cluster labels from `clusters`.
        rank: order of preference within a cluster.
        threshold: least Jaccard similarity.

    Returns:
        Row of the kept chat (its own row if kept), and the chats kept because ROUNDS did not finish their cluster.
    """
    like: Ints = np.arange(len(labels))
    sizes = np.bincount(labels, minlength=1)
    undecided = np.flatnonzero(sizes[labels] > 1)
    undecided = undecided[np.lexsort((rank[undecided], labels[undecided]))]
    for _ in range(ROUNDS):
        if not len(undecided):
            break
        begins = np.flatnonzero(np.diff(labels[undecided], prepend=-1))
        lengths = np.diff(begins, append=len(undecided))
        first = np.repeat(undecided[begins], lengths)
        is_alike = alike(sketches, undecided, sketches, first, threshold)
        like[undecided[is_alike]] = first[is_alike]
        undecided = undecided[~is_alike & (undecided != first)]
    return like, len(undecided)


def near_any(sketches: Sketches, others: Sketches, threshold: float) -> Bools:
    """Returns for each chat whether it is alike one of `others`."""
    is_near = np.zeros(len(sketches), dtype=bool)
    for band in range(BANDS):
        their_keys = _band_keys(others, band)
        order = np.argsort(their_keys)
        rows = np.flatnonzero(~is_near)
        buckets, our_buckets = their_keys[order] >> _HALF, _band_keys(sketches, band)[rows] >> _HALF
        begin, end = (
            np.searchsorted(buckets, our_buckets, "left"),
            np.searchsorted(buckets, our_buckets, "right"),
        )
        for offset in range(NEIGHBOURS):
            in_bucket = begin + offset < end
            left = rows[in_bucket]
            is_near[left] |= alike(sketches, left, others, order[begin[in_bucket] + offset], threshold)
    return is_near


_HALF = np.uint64(32)


def _band_keys(sketches: Sketches, band: int) -> Hashes:
    """Returns sort keys: the upper half is the band, the lower the next band, so that alike chats become neighbours."""
    upper, lower = _band_hash(sketches, band), _band_hash(sketches, (band + 1) % BANDS)
    return (upper >> _HALF << _HALF) | (lower >> _HALF)


def _band_hash(sketches: Sketches, band: int) -> Hashes:
    mixed = np.zeros(len(sketches), dtype=np.uint64)
    for row in range(band * ROWS, (band + 1) * ROWS):
        mixed = (mixed ^ sketches[:, row]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> _HALF
    return mixed * np.uint64(0xD6E8FEB86659FD93)


def _candidates(keys: Hashes) -> Iterator[tuple[Ints, Ints]]:
    """Yields pairs that share a band: each chat with the first, then with its neighbours."""
    order = np.argsort(keys, kind="stable")
    bucket = keys[order] >> _HALF
    new = np.flatnonzero(np.diff(bucket, prepend=~bucket[:1]))
    first = np.repeat(new, np.diff(new, append=len(order)))
    later = np.flatnonzero(first != np.arange(len(order)))
    yield order[first[later]], order[later]
    left, right = [], []
    for offset in range(1, NEIGHBOURS + 1):
        here = later[later - offset > first[later]]
        left.append(order[here - offset])
        right.append(order[here])
    yield np.concatenate(left), np.concatenate(right)
