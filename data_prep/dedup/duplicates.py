"""Which chats of a corpus repeat another, and which belong together: over the signatures of all, chats unread.

Bytes a chat at the most: the columns 48, the verdict 26, and one after the other for templates 24 (and 128 MiB
of counters whatever the number of chats), for near-duplicates 512 of sketches and about 150 while a band is
compared, for groups about 200. A test-only chat costs 560. A million chats were judged in 30 s and 816 MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.dedup.groups import name_groups
from data_prep.dedup.minhash import PERMUTATIONS, Sketches
from data_prep.dedup.near_duplicates import clusters, leaders, near_any
from data_prep.dedup.signatures import Signatures
from data_prep.dedup.templates import template_of

Hashes = np.ndarray[Any, np.dtype[np.uint64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Part = Callable[[], Signatures]
"""Reads the signatures of one shard; called once a pass."""

REASONS = ("id seen before", "same user turns as another", "template opening", "near-duplicate")
TEMPLATE_COUNT = 10
"""Default: at 10 what goes are greetings and prompts passed around, of ShareGPT and Chatbot Arena 3 in 100."""
NEAR_DUPLICATE = 0.62
"""Default: `benchmarks/prep.py` finds 0.98 of the planted near-duplicates, and 0.96 of what it finds is right."""
COLUMNS = ("source", "id", "said", "opening", "front", "person")


@dataclass
class Verdict:
    """Arrays over all chats, in their order."""

    reason: np.ndarray[Any, np.dtype[np.uint8]]
    """0: kept; else 1 + the index into REASONS."""
    like: Ints
    """The chat that stays in its place; itself where it is kept."""
    group: Hashes
    """Kept chats of one group share an opening or its front, a person or near-duplicates, perhaps through others."""
    held_out: Bools
    """Shares an opening or its front, a person or near-duplicates with a test-only chat."""
    stats: dict[str, Any]

    @property
    def kept(self) -> Ints:
        return np.flatnonzero(self.reason == 0)


def judge(
    parts: Sequence[Part],
    *,
    template_count: int | None,
    near_duplicate: float | None,
    held_out: Sequence[Part] = (),
    first: Bools | None = None,
) -> Verdict:
    """Of chats that repeat each other the first is kept; those in `first` come before all others."""
    columns = _columns(parts)
    count = len(columns["id"])
    rank = np.arange(count) - (0 if first is None else count * first.astype(np.int64))
    verdict = Verdict(
        reason=np.zeros(count, dtype=np.uint8),
        like=np.arange(count),
        group=columns["opening"].copy(),
        held_out=np.zeros(count, dtype=bool),
        stats={"chats": count},
    )
    # An id means nothing outside its corpus.
    ids = columns["id"] ^ (columns["source"] << np.uint64(1))
    _drop(verdict, "id seen before", *_first_of_each(ids, verdict.kept, rank))
    _drop(verdict, "same user turns as another", *_first_of_each(columns["said"], verdict.kept, rank))
    if template_count is not None:
        keys, counts = template_of(parts, verdict.reason == 0, template_count)
        _drop(verdict, "template opening", *_first_of_each(keys, np.flatnonzero(keys), rank))
        verdict.stats |= counts
    rows = verdict.kept
    near, too_near = _drop_near(verdict, parts, held_out, rows, rank, near_duplicate)
    verdict.group[rows] = name_groups(
        columns["opening"][rows], columns["person"][rows], columns["front"][rows], near
    )
    _settle(verdict)
    theirs = _columns(held_out)
    shared = {
        "same opening": np.isin(columns["opening"], theirs["opening"]),
        "same front": np.isin(columns["front"], theirs["front"][theirs["front"] != 0]),
        "same person": np.isin(columns["person"], theirs["person"][theirs["person"] != 0]),
        "near-duplicate": too_near,
    }
    verdict.held_out = np.logical_or.reduce(list(shared.values()))
    verdict.stats |= _counts(verdict, shared)
    return verdict


def _drop_near(
    verdict: Verdict,
    parts: Sequence[Part],
    held_out: Sequence[Part],
    rows: Ints,
    rank: Ints,
    threshold: float | None,
) -> tuple[Ints, Bools]:
    """Labels of clusters of `rows`, through dropped chats too; of all chats, which are alike a test-only one."""
    too_near = np.zeros(len(verdict.reason), dtype=bool)
    if threshold is None:
        return np.arange(len(rows)), too_near
    sketches = _sketches(parts, rows)
    labels = clusters(sketches, threshold)
    like, left = leaders(sketches, labels, rank[rows], threshold)
    _drop(verdict, "near-duplicate", rows, rows[like])
    verdict.stats["near_duplicates_left_in_large_clusters"] = left
    theirs = _sketches(held_out, np.arange(sum(len(part().table) for part in held_out)))
    too_near[rows] = near_any(sketches, theirs, threshold)
    return labels, too_near


def _columns(parts: Sequence[Part]) -> dict[str, Hashes]:
    found: dict[str, list[Hashes]] = {name: [np.zeros(0, dtype=np.uint64)] for name in COLUMNS}
    for part in parts:
        table = part().table
        for name in COLUMNS:
            found[name].append(np.ascontiguousarray(table[name]))
    return {name: np.concatenate(found.pop(name)) for name in COLUMNS}


def _sketches(parts: Sequence[Part], rows: Ints) -> Sketches:
    # Filled part by part: collected and joined, they would be there twice.
    sketches = np.empty((len(rows), PERMUTATIONS), dtype=np.uint32)
    start = 0
    for part in parts:
        table = part().table
        begin, end = np.searchsorted(rows, [start, start + len(table)])
        sketches[begin:end] = table["minhash"][rows[begin:end] - start]
        start += len(table)
    return sketches


def _first_of_each(keys: Hashes, rows: Ints, rank: Ints) -> tuple[Ints, Ints]:
    """The rows by rank, and for each the first with its key."""
    rows = rows[np.argsort(rank[rows], kind="stable")]
    _, at, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
    return rows, rows[at][inverse]


def _drop(verdict: Verdict, reason: str, rows: Ints, like: Ints) -> None:
    dropped = rows != like
    verdict.reason[rows[dropped]] = 1 + REASONS.index(reason)
    verdict.like[rows[dropped]] = like[dropped]


def _settle(verdict: Verdict) -> None:
    """A chat may be like one that was then dropped for a third; and it is of the group of the one that stays."""
    for _ in REASONS:
        verdict.like = verdict.like[verdict.like]
    verdict.group[:] = verdict.group[verdict.like]


def _counts(verdict: Verdict, shared: dict[str, Bools]) -> dict[str, Any]:
    kept = verdict.reason == 0
    sizes = np.unique(verdict.group[kept], return_counts=True)[1]
    return {
        "kept": int(kept.sum()),
        "dropped": {
            reason: int((verdict.reason == code).sum()) for code, reason in enumerate(REASONS, start=1)
        },
        "groups": len(sizes),
        "largest_group": int(sizes.max(initial=0)),
        "close_to_held_out": {reason: int((kept & marked).sum()) for reason, marked in shared.items()},
    }
