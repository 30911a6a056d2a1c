"""MinHash sketches: how alike two chats are, at 512 bytes each."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

PERMUTATIONS = 128
SEED = 1
"""Of the permutations; sketches made with another cannot be compared."""
CHUNK = 1 << 14
"""Pairs compared at once: 16 MiB of sketches."""

Sketches = np.ndarray[Any, np.dtype[np.uint32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


def sketch(hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> Sketches:
    from datasketch import MinHash  # type: ignore[import-untyped]

    made = MinHash(PERMUTATIONS, SEED, hashfunc=_same, permutations=_permutations(), scheme="affine32")
    made.update_batch(hashes.astype(np.uint32).tolist())
    values: Sketches = made.hashvalues
    return values


def _same(hashed: int) -> int:
    return hashed


@lru_cache
def _permutations() -> Any:
    from datasketch import MinHash

    return MinHash(PERMUTATIONS, SEED, scheme="affine32").permutations


def alike(
    one: Sketches, rows: Ints, other: Sketches, other_rows: Ints, threshold: float
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Of each pair of rows: is the estimated Jaccard similarity at least `threshold`?"""
    found = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        equal = np.count_nonzero(one[rows[part]] == other[other_rows[part]], axis=1)
        found[part] = equal >= threshold * PERMUTATIONS
    return found
