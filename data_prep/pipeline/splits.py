"""Assignment of conversation groups to train, dev and test."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from usersim.errors import ConfigError

SPLITS = ("train", "dev", "test")
TURN_BINS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 25, 40, 60, 100)
"""Least user turns of each length bin."""

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Codes = np.ndarray[Any, np.dtype[np.int8]]
Floats = np.ndarray[Any, np.dtype[np.float64]]
Fractions = tuple[float, float, float]

TEST = SPLITS.index("test")


def parse_fractions(text: str) -> Fractions:
    """Parses split shares such as `0.9,0.05,0.05`; raises ConfigError if they do not add up to 1."""
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
    """Returns the index into SPLITS of each chat.

    All chats of a group get one split, by the seed and the shares of their source, in any order of chats:

    - A group with a frozen chat is test. Other chats of a source with a frozen list never are: its test share goes to
      the other splits.
    - A group over several sources gets a split that all of them have, or else the last split that one of them has.
    - A group larger than a whole split goes to the split with the largest share.
    - The rest are ordered within source and length bin by a hash of the seed, and cut at the shares. So splits are
      alike in length, and added data moves few groups.

    Args:
        groups, turns, source, frozen: columns over the chats.
        fractions, has_frozen: split shares and presence of a frozen list, by source.
    """
    if not len(groups):
        return np.zeros(0, dtype=np.int8)
    names, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    shares = _shares(
        group,
        np.array([_shares_without_frozen(*pair) for pair in zip(fractions, has_frozen, strict=True)])[source],
    )
    is_frozen = np.zeros(len(names), dtype=bool)
    is_frozen[group[frozen]] = True
    home = _home(group, source)
    is_huge = sizes > np.where(shares > 0, shares, 1).min(axis=1) * np.bincount(source)[home]
    bins = np.digitize(np.bincount(group, weights=turns) / sizes, TURN_BINS)
    # Groups of several chats are strata of their own, so each split gets its share of returning people.
    strata = np.stack([home, *shares.T, bins, sizes == 1])
    order = np.lexsort((names, _order(names, seed), *strata[::-1]))
    codes = _cut(order[~(is_frozen | is_huge)[order]], strata, sizes, shares)
    codes[is_huge] = shares[is_huge].argmax(axis=1)
    codes[is_frozen] = TEST
    return codes[group]


def lengths(codes: Codes, turns: Ints) -> dict[str, dict[str, float]]:
    """Returns mean user turns of each split, and the distance of its length bins from all (0: equal, 1: disjoint)."""
    bins = np.digitize(turns, TURN_BINS)
    whole = np.bincount(bins, minlength=len(TURN_BINS) + 1) / max(len(bins), 1)
    by_split = {}
    for code, name in enumerate(SPLITS):
        if (in_split := codes == code).any():
            part = np.bincount(bins[in_split], minlength=len(whole)) / in_split.sum()
            distance = float(np.abs(part - whole).sum() / 2)
            by_split[name] = {
                "mean_user_turns": float(turns[in_split].mean()),
                "turn_bins_distance": distance,
            }
    return by_split


def _shares_without_frozen(fractions: Fractions, has_frozen: bool) -> Fractions:
    """Returns the split shares for chats that are not frozen."""
    train, dev, _ = fractions
    if not has_frozen:
        return fractions
    if not train + dev:
        raise ConfigError(
            "a source with a frozen test list needs a train or dev share: its other chats go there"
        )
    return train / (train + dev), dev / (train + dev), 0.0


def _shares(group: Ints, fractions: Floats) -> Floats:
    """Returns the split shares of each group from those of its chats."""
    least = np.ones((int(group.max()) + 1, len(SPLITS)))
    most = np.zeros_like(least)
    np.minimum.at(least, group, fractions)
    np.maximum.at(most, group, fractions)
    no_common = ~least.any(axis=1)
    fallback = len(SPLITS) - 1 - np.argmax(most[no_common, ::-1] > 0, axis=1)
    least[no_common] = np.eye(len(SPLITS))[fallback]
    shares: Floats = least / least.sum(axis=1, keepdims=True)
    return shares


def _home(group: Ints, source: Ints) -> Ints:
    """Returns the source of most chats of each group."""
    counts = np.zeros((int(group.max()) + 1, int(source.max()) + 1), dtype=np.int32)
    np.add.at(counts, (group, source), 1)
    home: Ints = counts.argmax(axis=1)
    return home


def _order(names: Hashes, seed: int) -> Hashes:
    keys = names ^ np.uint64(int.from_bytes(blake2b(str(seed).encode(), digest_size=8).digest(), "big"))
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(multiplier)
    return keys ^ (keys >> np.uint64(31))


def _cut(order: Ints, strata: Floats, sizes: Ints, shares: Floats) -> Codes:
    """Cuts each stratum by its shares; a group falls where its middle does.

    Groups stay whole, so a split may get too few chats; the difference is added in the next stratum of the source.
    """
    codes = np.zeros(len(sizes), dtype=np.int8)
    deficit = np.zeros(len(SPLITS))
    previous: Floats | None = None
    for members in (
        np.split(order, np.flatnonzero(np.diff(strata[:, order]).any(axis=0)) + 1) if len(order) else ()
    ):
        current = strata[: 1 + len(SPLITS), members[0]]
        if previous is None or (current != previous).any():
            deficit, previous = np.zeros(len(SPLITS)), current
        weights = sizes[members]
        targets = shares[members[0]] * weights.sum() + deficit
        ends = np.cumsum(targets.clip(min=0)) * (weights.sum() / targets.clip(min=0).sum())
        codes[members] = np.searchsorted(ends[:-1], np.cumsum(weights) - weights / 2, side="right")
        deficit = targets - np.bincount(codes[members], weights=weights, minlength=len(SPLITS))
    return codes
