"""Where the same thing stands more than once, found from hashes: 16 bytes for each, whatever its length."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.dedup.signatures import hash64

BUCKETS = 256
"""One is looked through at a time, so little more than the hashes is in memory."""
LINE_BITS = 40


class Place(NamedTuple):
    file: int
    line: int


class Places:
    def __init__(self) -> None:
        self._hashes = [array("Q") for _ in range(BUCKETS)]
        self._places = [array("Q") for _ in range(BUCKETS)]

    def add(self, text: str, place: Place) -> None:
        hashed = hash64(text)
        self._hashes[hashed % BUCKETS].append(hashed)
        self._places[hashed % BUCKETS].append(place.file << LINE_BITS | place.line)

    def repeated(self) -> Iterator[tuple[Place, Place]]:
        """(first place in the file, place) of each thing that the file had before; in no order."""
        for hashes, places in zip(self._hashes, self._places, strict=True):
            first: dict[tuple[int, int], Place] = {}
            for hashed, place in zip(hashes, map(_unpacked, places), strict=True):
                met = first.setdefault((hashed, place.file), place)
                if met != place:
                    yield met, place

    def crossing(self) -> Iterator[tuple[Place, Place]]:
        """(first place, first place in another file) of each thing that is in several; in no order."""
        for hashes, places in zip(self._hashes, self._places, strict=True):
            first: dict[int, Place] = {}
            crossed: set[int] = set()
            for hashed, place in zip(hashes, map(_unpacked, places), strict=True):
                met = first.setdefault(hashed, place)
                if met.file != place.file and hashed not in crossed:
                    crossed.add(hashed)
                    yield met, place


def _unpacked(place: int) -> Place:
    return Place(place >> LINE_BITS, place & ((1 << LINE_BITS) - 1))
