"""MinHash sketches, 512 bytes each, that estimate the Jaccard similarity of two chats."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

PERMUTATIONS = 128
SEED = 1
"""Seed of the permutations. Sketches of different seeds cannot be compared."""
CHUNK = 1 << 14
"""Pairs compared at once: 16 MiB of sketches."""

Sketches = np.ndarray[Any, np.dtype[np.uint32]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


def sketch(hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> Sketches:
    """Returns the MinHash sketch of a set of shingle hashes, shape (PERMUTATIONS,)."""
    from datasketch import MinHash  # type: ignore[import-untyped]

    minhash = MinHash(PERMUTATIONS, SEED, hashfunc=_identity, permutations=_permutations(), scheme="affine32")
    minhash.update_batch(hashes.astype(np.uint32).tolist())
    values: Sketches = minhash.hashvalues
    return values


def _identity(hashed: int) -> int:
    return hashed


@lru_cache
def _permutations() -> Any:
    from datasketch import MinHash

    return MinHash(PERMUTATIONS, SEED, scheme="affine32").permutations


def alike(
    one: Sketches, rows: Ints, other: Sketches, other_rows: Ints, threshold: float
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Returns for each pair of rows whether the estimated Jaccard similarity is at least `threshold`."""
    is_alike = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        equal = np.count_nonzero(one[rows[part]] == other[other_rows[part]], axis=1)
        is_alike[part] = equal >= threshold * PERMUTATIONS
    return is_alike
