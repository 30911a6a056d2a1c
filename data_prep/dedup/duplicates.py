"""Duplicates and groups of a corpus, from the signatures of all chats.

Bytes a chat, at most: 48 for the columns and 26 for the verdict. The steps run one after another. Templates take 24,
and 128 MiB of counters in all. Near-duplicates take 512 of sketches and about 150 while a band is compared. Groups take
about 200. A test-only chat costs 560. A million chats were judged in 30 s and 816 MiB.
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
"""Callable that reads the signatures of one shard; called once per pass."""

REASONS = ("id seen before", "same user turns as another", "template opening", "near-duplicate")
TEMPLATE_COUNT = 10
"""Default. At 10, greetings and prompts passed around are dropped: 3 in 100 of ShareGPT and Chatbot Arena."""
NEAR_DUPLICATE = 0.62
"""Default. In `benchmarks/prep.py`, recall on planted near-duplicates is 0.98 and precision 0.96."""
COLUMNS = ("source", "id", "said", "opening", "front", "person")


@dataclass
class DuplicateVerdict:
    """Result of deduplication: arrays over all chats, in their order."""

    reason: np.ndarray[Any, np.dtype[np.uint8]]
    """0 for a kept chat, else 1 + the index into REASONS."""
    like: Ints
    """Row of the chat kept in its place; its own row if it is kept."""
    group: Hashes
    """Group of each chat. A group is connected by a shared opening, front, person or near-duplicate."""
    held_out: Bools
    """True for a chat that shares an opening, front, person or near-duplicate with a test-only chat."""
    stats: dict[str, Any]

    @property
    def kept_rows(self) -> Ints:
        return np.flatnonzero(self.reason == 0)


def judge(
    parts: Sequence[Part],
    *,
    template_count: int | None,
    near_duplicate: float | None,
    held_out: Sequence[Part] = (),
    first: Bools | None = None,
) -> DuplicateVerdict:
    """Finds the duplicates and groups of all chats.

    Args:
        parts, held_out: signatures, by shard.
        template_count: chats above which an opening is a template.
        near_duplicate: least Jaccard similarity.
        first: chats preferred as the kept one.
    """
    columns = _columns(parts)
    count = len(columns["id"])
    rank = np.arange(count) - (0 if first is None else count * first.astype(np.int64))
    verdict = DuplicateVerdict(
        reason=np.zeros(count, dtype=np.uint8),
        like=np.arange(count),
        group=columns["opening"].copy(),
        held_out=np.zeros(count, dtype=bool),
        stats={"chats": count},
    )
    # Ids are unique only within their corpus.
    ids = columns["id"] ^ (columns["source"] << np.uint64(1))
    _drop(verdict, "id seen before", *_first_of_each(ids, verdict.kept_rows, rank))
    _drop(verdict, "same user turns as another", *_first_of_each(columns["said"], verdict.kept_rows, rank))
    if template_count is not None:
        keys, counts = template_of(parts, verdict.reason == 0, template_count)
        _drop(verdict, "template opening", *_first_of_each(keys, np.flatnonzero(keys), rank))
        verdict.stats |= counts
    rows = verdict.kept_rows
    labels, near_held_out = _drop_near(verdict, parts, held_out, rows, rank, near_duplicate)
    verdict.group[rows] = name_groups(
        columns["opening"][rows], columns["person"][rows], columns["front"][rows], labels
    )
    _resolve_chains(verdict)
    held_out_columns = _columns(held_out)
    shared = {
        "same opening": np.isin(columns["opening"], held_out_columns["opening"]),
        "same front": np.isin(columns["front"], held_out_columns["front"][held_out_columns["front"] != 0]),
        "same person": np.isin(
            columns["person"], held_out_columns["person"][held_out_columns["person"] != 0]
        ),
        "near-duplicate": near_held_out,
    }
    verdict.held_out = np.logical_or.reduce(list(shared.values()))
    verdict.stats |= _counts(verdict, shared)
    return verdict


def _drop_near(
    verdict: DuplicateVerdict,
    parts: Sequence[Part],
    held_out: Sequence[Part],
    rows: Ints,
    rank: Ints,
    threshold: float | None,
) -> tuple[Ints, Bools]:
    """Drops near-duplicates. Returns cluster labels of `rows` and, for all chats, whether a test-only chat is near."""
    near_held_out = np.zeros(len(verdict.reason), dtype=bool)
    if threshold is None:
        return np.arange(len(rows)), near_held_out
    sketches = _sketches(parts, rows)
    labels = clusters(sketches, threshold)
    like, unfinished = leaders(sketches, labels, rank[rows], threshold)
    _drop(verdict, "near-duplicate", rows, rows[like])
    verdict.stats["near_duplicates_left_in_large_clusters"] = unfinished
    held_out_sketches = _sketches(held_out, np.arange(sum(len(part().table) for part in held_out)))
    near_held_out[rows] = near_any(sketches, held_out_sketches, threshold)
    return labels, near_held_out


def _columns(parts: Sequence[Part]) -> dict[str, Hashes]:
    columns: dict[str, list[Hashes]] = {name: [np.zeros(0, dtype=np.uint64)] for name in COLUMNS}
    for part in parts:
        table = part().table
        for name in COLUMNS:
            columns[name].append(np.ascontiguousarray(table[name]))
    return {name: np.concatenate(columns.pop(name)) for name in COLUMNS}


def _sketches(parts: Sequence[Part], rows: Ints) -> Sketches:
    # Filled part by part: concatenation would hold the sketches twice.
    sketches = np.empty((len(rows), PERMUTATIONS), dtype=np.uint32)
    start = 0
    for part in parts:
        table = part().table
        begin, end = np.searchsorted(rows, [start, start + len(table)])
        sketches[begin:end] = table["minhash"][rows[begin:end] - start]
        start += len(table)
    return sketches


def _first_of_each(keys: Hashes, rows: Ints, rank: Ints) -> tuple[Ints, Ints]:
    """Returns the rows ordered by rank and, for each, the first row with the same key."""
    rows = rows[np.argsort(rank[rows], kind="stable")]
    _, first, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
    return rows, rows[first][inverse]


def _drop(verdict: DuplicateVerdict, reason: str, rows: Ints, like: Ints) -> None:
    dropped = rows != like
    verdict.reason[rows[dropped]] = 1 + REASONS.index(reason)
    verdict.like[rows[dropped]] = like[dropped]


def _resolve_chains(verdict: DuplicateVerdict) -> None:
    """Follows chains of dropped chats to the kept one, and copies its group."""
    for _ in REASONS:
        verdict.like = verdict.like[verdict.like]
    verdict.group[:] = verdict.group[verdict.like]


def _counts(verdict: DuplicateVerdict, shared: dict[str, Bools]) -> dict[str, Any]:
    is_kept = verdict.reason == 0
    sizes = np.unique(verdict.group[is_kept], return_counts=True)[1]
    return {
        "kept": int(is_kept.sum()),
        "dropped": {
            reason: int((verdict.reason == code).sum()) for code, reason in enumerate(REASONS, start=1)
        },
        "groups": len(sizes),
        "largest_group": int(sizes.max(initial=0)),
        "close_to_held_out": {reason: int((is_kept & marked).sum()) for reason, marked in shared.items()},
    }
