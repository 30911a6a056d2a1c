"""Scores of goals against annotated ones, with intervals over conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from data_prep.goals.annotations import phrase
from data_prep.goals.overlap import MAX_OVERLAP, overlap, user_texts
from usersim.text.embeddings import embed
from usersim.types import Conversation, Facet, Goal

FACET_COSINE = 0.6
"""Least cosine of two facets that match."""
CANDIDATES = 10
"""Conversations among which a goal must retrieve its own."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GoalScores:
    """Scores with one row per conversation; NaN where there is nothing to score."""

    chrf: Floats
    cosine: Floats
    retrieval: Floats
    overlap: Floats
    parrots: Floats
    written: Floats
    expected: Floats
    matched: Floats
    right_turn: Floats
    """Facets that were written, annotated, matched one to one, and matched with the same turn."""


def score(goals: Sequence[Goal | None], conversations: Sequence[Conversation]) -> GoalScores:
    """Scores goals; every conversation has an annotated goal."""
    import sacrebleu

    truth = [conversation.profile.goal or Goal(summary="-") for conversation in conversations]
    summaries = [goal.summary if goal else "-" for goal in goals]
    missing = np.array([goal is None for goal in goals])
    vectors = embed(summaries).astype(np.float64)
    shares = [
        overlap(phrase(text), user_texts(conversation))
        for text, conversation in zip(summaries, conversations, strict=True)
    ]
    chrf = [sacrebleu.sentence_chrf(a, [b.summary]).score for a, b in zip(summaries, truth, strict=True)]
    facets = np.array(
        [_facets(goal, annotated) for goal, annotated in zip(goals, truth, strict=True)], dtype=float
    )

    def or_missing(values: object) -> Floats:
        return np.where(missing, np.nan, np.asarray(values, dtype=float))

    return GoalScores(
        chrf=or_missing(chrf),
        cosine=or_missing((vectors * embed([goal.summary for goal in truth])).sum(1)),
        retrieval=or_missing(
            _retrieval(vectors @ embed([user_text(conversation) for conversation in conversations]).T)
        ),
        overlap=or_missing(shares),
        parrots=or_missing(np.array(shares) > MAX_OVERLAP),
        written=facets[:, 0],
        expected=facets[:, 1],
        matched=facets[:, 2],
        right_turn=facets[:, 3],
    )


def user_text(conversation: Conversation) -> str:
    return "\n".join(user_texts(conversation))


def _facets(goal: Goal | None, annotated: Goal) -> tuple[int, int, int, int]:
    facets: Sequence[Facet] = goal.facets if goal else ()
    if not facets or not annotated.facets:
        return len(facets), len(annotated.facets), 0, 0
    cosine = embed([facet.text for facet in facets]) @ embed([facet.text for facet in annotated.facets]).T
    alike = cosine >= FACET_COSINE
    rows, columns = linear_sum_assignment(np.where(alike, cosine, 0), maximize=True)
    pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if alike[i, j]]
    same = sum(facets[i].turn == annotated.facets[j].turn for i, j in pairs)
    return len(facets), len(annotated.facets), len(pairs), same


def _retrieval(cosine_NN: Floats) -> Floats:
    """Returns the exact probability that the own conversation is most similar among it and nine random others."""
    others = len(cosine_NN) - 1
    worse = (cosine_NN < cosine_NN.diagonal()[:, None]).sum(1)
    chance = np.ones(len(cosine_NN))
    for draw in range(min(CANDIDATES - 1, others)):
        chance *= np.clip(worse - draw, 0, None) / max(others - draw, 1)
    return chance


METRICS = (
    "coverage",
    "chrf",
    "cosine",
    "retrieval",
    "overlap",
    "parrots",
    "facet_precision",
    "facet_recall",
    "facet_f1",
    "facet_turn",
    "facets",
)


def metrics(scores: GoalScores, counts_BN: Floats) -> dict[str, Floats]:
    """Returns each metric on each of B resamples; `counts_BN` holds how often each conversation was sampled."""

    def mean(values: Floats) -> Floats:
        is_scored = ~np.isnan(values)
        return _ratio(counts_BN[:, is_scored] @ values[is_scored], counts_BN[:, is_scored].sum(1))

    written, expected, matched, right = (
        counts_BN @ row for row in (scores.written, scores.expected, scores.matched, scores.right_turn)
    )
    simple = {name: mean(getattr(scores, name)) for name in METRICS[1:6]}
    return {
        "coverage": mean((~np.isnan(scores.cosine)).astype(float)),
        **simple,
        "facet_precision": _ratio(matched, written),
        "facet_recall": _ratio(matched, expected),
        "facet_f1": _ratio(2 * matched, written + expected),
        "facet_turn": _ratio(right, matched),
        "facets": mean(scores.written),
    }


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio: Floats = np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
    return ratio


def draws(n: int, repeats: int, seed: int) -> Floats:
    """Returns bootstrap counts, shape (repeats + 1, n); the first row is the sample itself."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=repeats)
    return np.vstack([np.ones(n), counts]).astype(np.float64)


def estimate(values_B: Floats) -> dict[str, float] | None:
    """Returns the first value with the 95 % percentile interval of the others."""
    resampled = values_B[1:][~np.isnan(values_B[1:])]
    if np.isnan(values_B[0]) or not len(resampled):
        return None
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {"value": round(float(values_B[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
