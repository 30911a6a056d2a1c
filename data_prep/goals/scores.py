"""Scores of written goals against annotated ones, and their intervals over conversations."""

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
"""From here on two facets count as the same."""
CANDIDATES = 10
"""Conversations among which a goal has to find its own."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """One row a conversation; NaN where there is nothing to score."""

    chrf: Floats
    cosine: Floats
    retrieval: Floats
    overlap: Floats
    parrots: Floats
    written: Floats
    expected: Floats
    matched: Floats
    right_turn: Floats
    """Facets written, annotated, matched one to one, and matched with the same turn."""


def score(goals: Sequence[Goal | None], conversations: Sequence[Conversation]) -> Scores:
    """`conversations` have annotated goals."""
    import sacrebleu

    truth = [one.profile.goal or Goal(summary="-") for one in conversations]
    made = [goal.summary if goal else "-" for goal in goals]
    missing = np.array([goal is None for goal in goals])
    vectors = embed(made).astype(np.float64)
    shares = [overlap(phrase(text), user_texts(one)) for text, one in zip(made, conversations, strict=True)]
    chrf = [sacrebleu.sentence_chrf(a, [b.summary]).score for a, b in zip(made, truth, strict=True)]
    facets = np.array([_facets(goal, true) for goal, true in zip(goals, truth, strict=True)], dtype=float)

    def known(values: object) -> Floats:
        return np.where(missing, np.nan, np.asarray(values, dtype=float))

    return Scores(
        chrf=known(chrf),
        cosine=known((vectors * embed([goal.summary for goal in truth])).sum(1)),
        retrieval=known(_retrieval(vectors @ embed([said(one) for one in conversations]).T)),
        overlap=known(shares),
        parrots=known(np.array(shares) > MAX_OVERLAP),
        written=facets[:, 0],
        expected=facets[:, 1],
        matched=facets[:, 2],
        right_turn=facets[:, 3],
    )


def said(conversation: Conversation) -> str:
    return "\n".join(user_texts(conversation))


def _facets(goal: Goal | None, true: Goal) -> tuple[int, int, int, int]:
    made: Sequence[Facet] = goal.facets if goal else ()
    if not made or not true.facets:
        return len(made), len(true.facets), 0, 0
    cosine = embed([facet.text for facet in made]) @ embed([facet.text for facet in true.facets]).T
    alike = cosine >= FACET_COSINE
    rows, columns = linear_sum_assignment(np.where(alike, cosine, 0), maximize=True)
    pairs = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if alike[i, j]]
    same = sum(made[i].turn == true.facets[j].turn for i, j in pairs)
    return len(made), len(true.facets), len(pairs), same


def _retrieval(cosine_NN: Floats) -> Floats:
    """Chance that the own conversation is the most alike among it and nine others drawn at random; exact."""
    others = len(cosine_NN) - 1
    less = (cosine_NN < cosine_NN.diagonal()[:, None]).sum(1)
    chance = np.ones(len(cosine_NN))
    for drawn in range(min(CANDIDATES - 1, others)):
        chance *= np.clip(less - drawn, 0, None) / max(others - drawn, 1)
    return chance


FIGURES = (
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


def figures(scores: Scores, counts_BN: Floats) -> dict[str, Floats]:
    """Each figure on each of B resamples; `counts_BN` says how often each conversation was drawn."""

    def mean(values: Floats) -> Floats:
        known = ~np.isnan(values)
        return _ratio(counts_BN[:, known] @ values[known], counts_BN[:, known].sum(1))

    written, expected, matched, right = (
        counts_BN @ row for row in (scores.written, scores.expected, scores.matched, scores.right_turn)
    )
    simple = {name: mean(getattr(scores, name)) for name in FIGURES[1:6]}
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
    """Counts of a bootstrap with replacement; the first row is the sample itself."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=repeats)
    return np.vstack([np.ones(n), counts]).astype(np.float64)


def estimate(values_B: Floats) -> dict[str, float] | None:
    """The first is the figure; the others give its 95 % interval (percentiles)."""
    drawn = values_B[1:][~np.isnan(values_B[1:])]
    if np.isnan(values_B[0]) or not len(drawn):
        return None
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": round(float(values_B[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
