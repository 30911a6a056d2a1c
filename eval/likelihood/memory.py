"""Memorisation: how many drawn turns hold a run of 30 tokens that stood in the training set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from usersim.rendering.renderer import Renderer
from usersim.stats.estimates import Estimate, wilson
from usersim.types import Conversation, Record

RUN = 30
SHORT_RUN = 15
Hashes = NDArray[np.uint64]


class MemoryReport(Record):
    training_conversations: int
    drawn: dict[int, Estimate]
    """By run length in tokens: share of drawn turns that hold such a run of the training set."""
    people: dict[int, Estimate]
    """The same of held-out human turns: what people share with each other (quotations, templates, prompts)."""
    long_enough: dict[str, int]
    """Turns of at least 30 tokens, which alone can hold such a run."""


def report(
    drawn: Sequence[str], people: Sequence[str], training: Sequence[Conversation], renderer: Renderer
) -> MemoryReport:
    """Training text as rendered, goals and shortened answers included, since that is what was seen."""
    rendered = [e.ids for c in training for e in renderer.examples(c)]
    ours, theirs = ([renderer.encode(text) for text in texts] for texts in (drawn, people))
    shares: dict[str, dict[int, Estimate]] = {"drawn": {}, "people": {}}
    for run in (RUN, SHORT_RUN):
        seen = np.unique(np.concatenate([run_hashes(ids, run) for ids in rendered]))
        for name, turns in (("drawn", ours), ("people", theirs)):
            hits = sum(any_in(run_hashes(ids, run), seen) for ids in turns)
            shares[name][run] = wilson(hits, len(turns))
    return MemoryReport(
        training_conversations=len(training),
        drawn=shares["drawn"],
        people=shares["people"],
        long_enough={"drawn": _long(ours), "people": _long(theirs)},
    )


def any_in(hashes: Hashes, seen: Hashes) -> bool:
    """Whether one of the hashes is among `seen`, which is sorted."""
    if not len(seen):
        return False
    place = np.minimum(np.searchsorted(seen, hashes), len(seen) - 1)
    return bool((seen[place] == hashes).any())


def _long(turns: Iterable[Sequence[int]]) -> int:
    return sum(len(ids) >= RUN for ids in turns)


def run_hashes(ids: Sequence[int], run: int) -> Hashes:
    """A 64-bit polynomial hash of every run; two different runs collide once in 2^64."""
    tokens = np.asarray(ids, dtype=np.uint64)
    if len(tokens) < run:
        return np.zeros(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, run)
    weights = np.array([pow(6364136223846793005, k, 2**64) for k in range(1, run + 1)], dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed: Hashes = ((windows + np.uint64(1)) * weights).sum(1, dtype=np.uint64)
    return mixed
