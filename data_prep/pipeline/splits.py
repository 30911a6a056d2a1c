"""The split that each group of conversations falls into."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from usersim.errors import ConfigError

SPLITS = ("train", "dev", "test")
TURN_BINS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 25, 40, 60, 100)
"""Least user turns of each bin."""

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Codes = np.ndarray[Any, np.dtype[np.int8]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Fractions = tuple[float, float, float]

TEST = SPLITS.index("test")


def parse_fractions(text: str) -> Fractions:
    """`0.9,0.05,0.05`."""
    try:
        train, dev, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--split-fractions {text!r}: write train,dev,test, e.g. 0.9,0.05,0.05") from error
    if min(train, dev, test) < 0 or abs(train + dev + test - 1) > 1e-6:
        raise ConfigError(f"--split-fractions {text!r}: three shares of at least 0 that add up to 1")
    return train, dev, test


def assign(
    groups: Hashes,
    turns: Ints,
    source: Ints,
    *,
    fractions: Sequence[Fractions],
    frozen: Bools,
    has_frozen: Sequence[bool],
    seed: int,
) -> Codes:
    """Index into SPLITS of each chat: by group, the seed and the fractions of its source, in any order of chats.

    A group with a frozen chat is test. Of a source that has a frozen list nothing else is: test's share goes
    to the others. A group over several sources keeps to splits that all of them have; where there is none, to
    the last that one of them has. A group larger than a whole split goes where the largest share is. The rest
    are lined up within their source and bin of user turns by a hash of the seed, and cut: the splits are alike
    in length, and added data moves few groups.
    """
    if not len(groups):
        return np.zeros(0, dtype=np.int8)
    names, of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(of)
    shares = _shares(of, np.array([_open(*each) for each in zip(fractions, has_frozen, strict=True)])[source])
    closed = np.zeros(len(names), dtype=bool)
    closed[of[frozen]] = True
    home = _home(of, source)
    huge = sizes > np.where(shares > 0, shares, 1).min(axis=1) * np.bincount(source)[home]
    bins = np.digitize(np.bincount(of, weights=turns) / sizes, TURN_BINS)
    # Groups of several chats have a line of their own: each split gets its part of the people seen twice.
    strata = np.stack([home, *shares.T, bins, sizes == 1])
    line = np.lexsort((names, _order(names, seed), *strata[::-1]))
    codes = _cut(line[~(closed | huge)[line]], strata, sizes, shares)
    codes[huge] = shares[huge].argmax(axis=1)
    codes[closed] = TEST
    return codes[of]


def lengths(codes: Codes, turns: Ints) -> dict[str, dict[str, float]]:
    """Mean user turns of each split, and how far its turn bins are from those of all (0: the same, 1: disjoint)."""
    bins = np.digitize(turns, TURN_BINS)
    whole = np.bincount(bins, minlength=len(TURN_BINS) + 1) / max(len(bins), 1)
    found = {}
    for code, name in enumerate(SPLITS):
        if (here := codes == code).any():
            part = np.bincount(bins[here], minlength=len(whole)) / here.sum()
            distance = float(np.abs(part - whole).sum() / 2)
            found[name] = {"mean_user_turns": float(turns[here].mean()), "turn_bins_distance": distance}
    return found


def _open(fractions: Fractions, has_frozen: bool) -> Fractions:
    """The shares of what is not frozen."""
    train, dev, _ = fractions
    if not has_frozen:
        return fractions
    if not train + dev:
        raise ConfigError(
            "a source with a frozen test list needs a share for train or dev: all else goes there"
        )
    return train / (train + dev), dev / (train + dev), 0.0


def _shares(of: Ints, fractions: Floats) -> Floats:
    """Of each group, from the fractions of its chats."""
    least = np.ones((int(of.max()) + 1, len(SPLITS)))
    most = np.zeros_like(least)
    np.minimum.at(least, of, fractions)
    np.maximum.at(most, of, fractions)
    nowhere = ~least.any(axis=1)
    last = len(SPLITS) - 1 - np.argmax(most[nowhere, ::-1] > 0, axis=1)
    least[nowhere] = np.eye(len(SPLITS))[last]
    shares: Floats = least / least.sum(axis=1, keepdims=True)
    return shares


def _home(of: Ints, source: Ints) -> Ints:
    """The source that most chats of a group are of."""
    counts = np.zeros((int(of.max()) + 1, int(source.max()) + 1), dtype=np.int32)
    np.add.at(counts, (of, source), 1)
    home: Ints = counts.argmax(axis=1)
    return home


def _order(names: Hashes, seed: int) -> Hashes:
    drawn = names ^ np.uint64(int.from_bytes(blake2b(str(seed).encode(), digest_size=8).digest(), "big"))
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        drawn = (drawn ^ (drawn >> np.uint64(30))) * np.uint64(multiplier)
    return drawn ^ (drawn >> np.uint64(31))


def _cut(line: Ints, strata: Floats, sizes: Ints, shares: Floats) -> Codes:
    """Cuts each stratum of the line by its shares; a group falls where its middle does.

    What a split got too little of, because groups stay whole, it gets more of in the source's next stratum.
    """
    codes = np.zeros(len(sizes), dtype=np.int8)
    owed = np.zeros(len(SPLITS))
    before: Floats | None = None
    for members in (
        np.split(line, np.flatnonzero(np.diff(strata[:, line]).any(axis=0)) + 1) if len(line) else ()
    ):
        kind = strata[: 1 + len(SPLITS), members[0]]
        if before is None or (kind != before).any():
            owed, before = np.zeros(len(SPLITS)), kind
        weights = sizes[members]
        wanted = shares[members[0]] * weights.sum() + owed
        ends = np.cumsum(wanted.clip(min=0)) * (weights.sum() / wanted.clip(min=0).sum())
        codes[members] = np.searchsorted(ends[:-1], np.cumsum(weights) - weights / 2, side="right")
        owed = wanted - np.bincount(codes[members], weights=weights, minlength=len(SPLITS))
    return codes
