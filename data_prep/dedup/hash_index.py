"""Index of texts that occur more than once, by hash: 16 bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.dedup.signatures import hash64

BUCKETS = 256
"""Buckets are searched one at a time, so memory is little more than the hashes."""
LINE_BITS = 40


class Place(NamedTuple):
    file: int
    line: int


class HashIndex:
    """Places of texts by hash, to find repetitions within and across files."""

    def __init__(self) -> None:
        self._hashes = [array("Q") for _ in range(BUCKETS)]
        self._places = [array("Q") for _ in range(BUCKETS)]

    def add(self, text: str, place: Place) -> None:
        hashed = hash64(text)
        self._hashes[hashed % BUCKETS].append(hashed)
        self._places[hashed % BUCKETS].append(place.file << LINE_BITS | place.line)

    def repeated(self) -> Iterator[tuple[Place, Place]]:
        """Yields (first place, later place) of each text repeated within a file, in no order."""
        for hashes, places in zip(self._hashes, self._places, strict=True):
            first: dict[tuple[int, int], Place] = {}
            for hashed, place in zip(hashes, map(_unpack, places), strict=True):
                earlier = first.setdefault((hashed, place.file), place)
                if earlier != place:
                    yield earlier, place

    def crossing(self) -> Iterator[tuple[Place, Place]]:
        """Yields (first place, first place in another file) of each text in several files, in no order."""
        for hashes, places in zip(self._hashes, self._places, strict=True):
            first: dict[int, Place] = {}
            crossed: set[int] = set()
            for hashed, place in zip(hashes, map(_unpack, places), strict=True):
                earlier = first.setdefault(hashed, place)
                if earlier.file != place.file and hashed not in crossed:
                    crossed.add(hashed)
                    yield earlier, place


def _unpack(place: int) -> Place:
    return Place(place >> LINE_BITS, place & ((1 << LINE_BITS) - 1))
