"""Memorisation: share of drawn turns with a run of 30 tokens that occurs in the training set."""

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
    """Memorisation of drawn turns, with held-out human turns as the baseline."""

    training_conversations: int
    drawn: dict[int, Estimate]
    """By run length in tokens: share of drawn turns that contain such a run of the training set."""
    people: dict[int, Estimate]
    """The same share for held-out human turns: text that people share (quotations, templates, prompts)."""
    long_enough: dict[str, int]
    """Number of turns of at least 30 tokens; only these can contain such a run."""


def report(
    drawn_texts: Sequence[str],
    human_texts: Sequence[str],
    training: Sequence[Conversation],
    renderer: Renderer,
) -> MemoryReport:
    """Returns the memorisation report.

    Args:
        drawn_texts: Turns drawn from the model.
        human_texts: Held-out human turns.
        training: Training conversations. They are rendered as in training, with goals and shortened answers.
        renderer: Renderer of the model.
    """
    rendered = [e.ids for c in training for e in renderer.examples(c)]
    drawn_ids, human_ids = ([renderer.encode(text) for text in texts] for texts in (drawn_texts, human_texts))
    shares: dict[str, dict[int, Estimate]] = {"drawn": {}, "people": {}}
    for run in (RUN, SHORT_RUN):
        training_hashes = np.unique(np.concatenate([run_hashes(ids, run) for ids in rendered]))
        for name, turns in (("drawn", drawn_ids), ("people", human_ids)):
            hits = sum(any_in(run_hashes(ids, run), training_hashes) for ids in turns)
            shares[name][run] = wilson(hits, len(turns))
    return MemoryReport(
        training_conversations=len(training),
        drawn=shares["drawn"],
        people=shares["people"],
        long_enough={"drawn": _long_enough(drawn_ids), "people": _long_enough(human_ids)},
    )


def any_in(hashes: Hashes, sorted_hashes: Hashes) -> bool:
    """Returns True if any of the hashes is in `sorted_hashes`."""
    if not len(sorted_hashes):
        return False
    index = np.minimum(np.searchsorted(sorted_hashes, hashes), len(sorted_hashes) - 1)
    return bool((sorted_hashes[index] == hashes).any())


def _long_enough(turns: Iterable[Sequence[int]]) -> int:
    return sum(len(ids) >= RUN for ids in turns)


def run_hashes(ids: Sequence[int], run: int) -> Hashes:
    """Returns a 64-bit polynomial hash of every run of `run` tokens; two runs collide with probability 2^-64."""
    tokens = np.asarray(ids, dtype=np.uint64)
    if len(tokens) < run:
        return np.zeros(0, dtype=np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens, run)
    weights = np.array([pow(6364136223846793005, k, 2**64) for k in range(1, run + 1)], dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed: Hashes = ((windows + np.uint64(1)) * weights).sum(1, dtype=np.uint64)
    return mixed
