"""Out-of-fold scores without leakage, and their AUC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

from eval.fidelity.metrics.texts.copies import clusters
from eval.fidelity.samples.features import user_texts
from usersim.stats.estimates import Floats, Ints
from usersim.types import Conversation

Fit = Callable[[Any, Ints], Callable[[Any], Floats]]
LEAST_SCORED = 0.5
"""Share of each side that must have a score for an AUC."""


def auc(positive: Floats, negative: Floats) -> float:
    """Returns P(a positive scores above a negative), ties half (Mann-Whitney). 0 to 1."""
    return float(auc_rows(positive, negative, np.ones((1, len(positive))), np.ones((1, len(negative))))[0])


def auc_rows(positive: Floats, negative: Floats, pos_RN: Floats, neg_RN: Floats) -> Floats:
    """Returns AUCs under weights (counts of a resample), one pair of weightings a row.

    Items without a score (NaN) are left out; NaN where a side keeps no weight, or less than half of its items.
    """
    known_p, known_n = ~np.isnan(positive), ~np.isnan(negative)
    if min(known_p.mean(), known_n.mean()) < LEAST_SCORED:
        return np.full(len(pos_RN), np.nan)
    positive, negative = positive[known_p], negative[known_n]
    levels = np.unique(np.concatenate([positive, negative]))
    hits, misses = (
        weights @ np.eye(len(levels))[np.searchsorted(levels, scores)]
        for weights, scores in ((pos_RN[:, known_p], positive), (neg_RN[:, known_n], negative))
    )
    below = np.cumsum(misses, axis=1) - misses / 2
    pairs = hits.sum(1) * misses.sum(1)
    area: Floats = np.divide((hits * below).sum(1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return area


def task_of(conversation: Conversation) -> str:
    """Returns the task of a conversation. The topic must not reveal the source, so conversations of one task share a
    fold."""
    goal = conversation.profile.goal
    return goal.summary if goal else conversation.group or conversation.id


def matters(conversations: Sequence[Conversation]) -> list[str]:
    """Returns a label per conversation, shared by conversations of one task and by those with equal or nearly
    equal user text.

    Chains count: copies of one conversation under twenty tasks have one label, with all conversations of these tasks.
    So a simulator that repeats itself is never scored by a classifier that was trained on the same words.
    """
    codes: dict[tuple[str, ...], int] = {}
    columns = [
        codes.setdefault(key, len(codes))
        for conversation, cluster in zip(conversations, clusters(conversations), strict=True)
        for key in (
            ("task", task_of(conversation)),
            ("words", *user_texts(conversation)),
            ("near", str(cluster)),
        )
    ]
    rows = np.repeat(np.arange(len(conversations)), 3)
    has_NK = coo_matrix((np.ones(len(columns)), (rows, columns))).tocsr()
    return [str(name) for name in connected_components(has_NK @ has_NK.T, directed=False)[1]]


def people(conversations: Sequence[Conversation]) -> Ints:
    """Returns (N, 2) numbers of the user and of the group, -1 where unknown."""
    codes: dict[tuple[str, str], int] = {}
    return np.array(
        [
            [-1 if name is None else codes.setdefault((kind, name), len(codes)) for kind, name in pair]
            for pair in ((("user", c.user), ("group", c.group)) for c in conversations)
        ],
        dtype=np.int64,
    ).reshape(-1, 2)


def grouped_folds(groups: Sequence[str], folds: int, rng: np.random.Generator) -> Ints:
    """Returns a fold for every item; items of one group share it."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    fold: Ints = (rng.permutation(len(names)) % folds)[owner]
    return fold


def out_of_fold(rows: Any, labels: Ints, fold: Ints, fit: Fit, *, people_NP: Ints | None = None) -> Floats:
    """Returns each item's score from a classifier that was fitted without its fold and without the people in it.

    People are crossed with tasks, so they cannot share a fold too: text that a held-out person wrote elsewhere is
    left out of training. NaN where training would hold one class only.
    """
    scores = np.full(len(labels), np.nan)
    for k in np.unique(fold):
        is_held_out = fold == k
        train = ~is_held_out if people_NP is None else ~is_held_out & ~_shares_person(people_NP, is_held_out)
        if 0 < labels[train].sum() < train.sum():
            scores[is_held_out] = fit(rows[train], labels[train])(rows[is_held_out])
    return scores


def _shares_person(people_NP: Ints, is_held_out: Any) -> Any:
    held_people = people_NP[is_held_out]
    return np.isin(people_NP, held_people[held_people >= 0]).any(1)
