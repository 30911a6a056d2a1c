"""Near-duplicates among many sketches: candidates by bands, each pair checked, the first of a cluster kept.

datasketch's LSH of the same bands takes 10.7 KB a chat, 10 GiB at a million; sorted one at a time they take 150 bytes.
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
"""A pair of similarity s meets in a band with probability 1 - (1 - s^4)^32: 0.99 at 0.6, 0.998 at 0.65."""
NEIGHBOURS = 8
"""Within a band a chat is compared with so many before it and with the first: time stays linear."""
ROUNDS = 1000
"""Most kept chats of one cluster; what none of them was like by then is kept."""


def clusters(sketches: Sketches, threshold: float) -> Ints:
    """Of each chat its component under "compared and alike"."""
    count = len(sketches)
    labels: Ints = np.arange(count)
    one, other = [labels[:0]], [labels[:0]]
    for band in range(BANDS):
        for left, right in _candidates(_band_keys(sketches, band)):
            # Already tied: another comparison would tell nothing new.
            apart = labels[left] != labels[right]
            left, right = left[apart], right[apart]
            found = alike(sketches, left, sketches, right, threshold)
            if found.any():
                one.append(left[found])
                other.append(right[found])
                labels = components(count, np.concatenate(one), np.concatenate(other))
    return labels


def leaders(sketches: Sketches, labels: Ints, rank: Ints, threshold: float) -> tuple[Ints, int]:
    """Of each chat the kept one it is alike, by `rank` the first of its cluster; itself where it is kept.

    Being tied through others is not enough to go: a chat is dropped for one that stays. The second result
    counts those kept because their cluster was not done after ROUNDS.
    """
    like: Ints = np.arange(len(labels))
    sizes = np.bincount(labels, minlength=1)
    waiting = np.flatnonzero(sizes[labels] > 1)
    waiting = waiting[np.lexsort((rank[waiting], labels[waiting]))]
    for _ in range(ROUNDS):
        if not len(waiting):
            break
        begins = np.flatnonzero(np.diff(labels[waiting], prepend=-1))
        lengths = np.diff(begins, append=len(waiting))
        first = np.repeat(waiting[begins], lengths)
        found = alike(sketches, waiting, sketches, first, threshold)
        like[waiting[found]] = first[found]
        waiting = waiting[~found & (waiting != first)]
    return like, len(waiting)


def near_any(sketches: Sketches, others: Sketches, threshold: float) -> Bools:
    """Is a chat alike one of `others`?"""
    found = np.zeros(len(sketches), dtype=bool)
    for band in range(BANDS):
        theirs = _band_keys(others, band)
        order = np.argsort(theirs)
        rows = np.flatnonzero(~found)
        buckets, ours = theirs[order] >> _HALF, _band_keys(sketches, band)[rows] >> _HALF
        begin, end = np.searchsorted(buckets, ours, "left"), np.searchsorted(buckets, ours, "right")
        for offset in range(NEIGHBOURS):
            met = begin + offset < end
            left = rows[met]
            found[left] |= alike(sketches, left, others, order[begin[met] + offset], threshold)
    return found


_HALF = np.uint64(32)


def _band_keys(sketches: Sketches, band: int) -> Hashes:
    """The upper half is the band; the lower is the next one, so that in a large band the alike are neighbours."""
    upper, lower = _band_hash(sketches, band), _band_hash(sketches, (band + 1) % BANDS)
    return (upper >> _HALF << _HALF) | (lower >> _HALF)


def _band_hash(sketches: Sketches, band: int) -> Hashes:
    mixed = np.zeros(len(sketches), dtype=np.uint64)
    for row in range(band * ROWS, (band + 1) * ROWS):
        mixed = (mixed ^ sketches[:, row]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> _HALF
    return mixed * np.uint64(0xD6E8FEB86659FD93)


def _candidates(keys: Hashes) -> Iterator[tuple[Ints, Ints]]:
    """Pairs with the same band: each with the first, then each with its neighbours."""
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
