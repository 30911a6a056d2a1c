"""Goal following: goal retrieval from openings, word overlap with the goal, and disclosure of facets over turns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # type: ignore[import-untyped]

from eval.fidelity.samples.features import user_texts
from eval.likelihood.scoring import CANDIDATES, candidates
from usersim.stats.estimates import Estimate, Floats, bootstrap_ratio, wilson
from usersim.text.embeddings import embed
from usersim.text.style import words
from usersim.types import Conversation, Facet, Record

TURNS = 5
SENTENCE = re.compile(r"(?<=[.!?\n])\s+")


class Retrieval(Record):
    """Accuracy of retrieving the own goal of an opening among `candidates` goals."""

    candidates: int = CANDIDATES
    likelihood: dict[str, Estimate]
    """By model: share of real openings that are most likely under their own goal."""
    embedding: dict[str, Estimate]
    """By speaker: share of openings whose embedding is closest to that of their own goal."""


class GoalOverlap(Record):
    """Share of the user's content words that occur in the goal (intent decomposition, Naous et al. 2025, §4)."""

    first: Estimate
    later: Estimate | None


class DisclosureCurve(Record):
    """Share of facets revealed by user turn 1, 2, …; a finished conversation keeps its last value."""

    by_turn: tuple[Estimate, ...]


class GoalReport(Record):
    """Table 3 of `usersim eval model`."""

    retrieval: Retrieval
    wording: dict[str, GoalOverlap]
    disclosure: dict[str, DisclosureCurve]
    disclosure_threshold: float | None
    """Minimum cosine at which a sentence reveals a facet, chosen on annotated dev conversations."""
    disclosure_agreement: float | None
    """F1 of "revealed by this turn" against the annotation on dev, at that threshold."""


def share_won_by_first(nats: Sequence[Sequence[float]]) -> Estimate:
    """Returns the share of rows whose first entry is strictly the smallest."""
    return wilson(sum(row[0] < min(row[1:]) for row in nats), len(nats))


def nearest_goal(texts: Mapping[str, str], conversations: Sequence[Conversation], seed: int) -> Estimate:
    """Returns the share of openings that are closest to their own goal among the candidates.

    Args:
        texts: Openings by conversation id.
        conversations: Conversations with goals.
        seed: Seed of the candidates.
    """
    hits = n = 0
    summaries = embed([_summary(c) for c in conversations])
    index_of = {c.id: index for index, c in enumerate(conversations)}
    with_opening = [c.id for c in conversations if c.id in texts]
    vectors = dict(zip(with_opening, embed([texts[i] for i in with_opening]), strict=True))
    for own, group in zip(conversations, candidates(conversations, seed), strict=True):
        if own.id in vectors:
            cosines = summaries[[index_of[c.id] for c in group]] @ vectors[own.id]
            hits += bool(cosines[0] > max(cosines[1:]))
            n += 1
    return wilson(hits, n)


def _summary(conversation: Conversation) -> str:
    goal = conversation.profile.goal
    return goal.summary if goal else ""


def overlap(text: str, goal: str) -> float | None:
    """Returns the share of the text's content words that occur in the goal; None if it has no content word."""
    text_words, goal_words = content(text), content(goal)
    return len(text_words & goal_words) / len(text_words) if text_words else None


def content(text: str) -> set[str]:
    """Returns the content words of a text, lowercase, without stop words."""
    return {word for word in map(str.lower, words(text)) if word not in ENGLISH_STOP_WORDS}


def wording(
    first: Mapping[str, str],
    later: Mapping[str, Sequence[str]],
    people: Sequence[Conversation],
    counts: Floats,
) -> GoalOverlap:
    """Returns the overlap with the goal for openings and later turns; each conversation weighs by its turns.

    Args:
        first: Opening by conversation id.
        later: Later turns by conversation id.
        people: Conversations with goals.
        counts: Bootstrap counts, (replicates, conversations).
    """
    first_turns = _overlap_estimate([[first[c.id]] if c.id in first else [] for c in people], people, counts)
    assert first_turns is not None, "no opening at all"
    return GoalOverlap(
        first=first_turns,
        later=_overlap_estimate([list(later.get(c.id, ())) for c in people], people, counts),
    )


def _overlap_estimate(
    turns_by_person: Sequence[Sequence[str]], people: Sequence[Conversation], counts: Floats
) -> Estimate | None:
    shares_N, turns_N = np.zeros(len(people)), np.zeros(len(people))
    for index, (texts, person) in enumerate(zip(turns_by_person, people, strict=True)):
        shares = [share for text in texts if (share := overlap(text, _summary(person))) is not None]
        shares_N[index], turns_N[index] = sum(shares), len(shares)
    return bootstrap_ratio(shares_N, turns_N, counts) if turns_N.sum() else None


# -- disclosure ------------------------------------------------------------------------------------


def revealed(conversations: Sequence[Conversation]) -> list[Floats]:
    """Returns per conversation a table (facets, turns): maximum cosine of a facet with any sentence up to the turn."""
    pieces, spans = [], []
    for conversation in conversations:
        facets = [facet.text for facet in _facets(conversation)]
        turns = [
            [s for s in SENTENCE.split(text) if s.strip()] or [text] for text in user_texts(conversation)
        ]
        spans.append((len(facets), [len(turn) for turn in turns]))
        pieces += facets + [sentence for turn in turns for sentence in turn]
    vectors, at, tables = embed(pieces), 0, []
    for facets_n, sizes in spans:
        facet_vectors, at = vectors[at : at + facets_n], at + facets_n
        columns = []
        for size in sizes:
            cosines = facet_vectors @ vectors[at : at + size].T
            columns.append(cosines.max(1) if facets_n else np.zeros(0))
            at += size
        table = np.array(columns, dtype=np.float64).T.reshape(facets_n, len(sizes))
        tables.append(np.maximum.accumulate(table, axis=1) if table.size else table)
    return tables


def _facets(conversation: Conversation) -> Sequence[Facet]:
    return conversation.profile.goal.facets if conversation.profile.goal else ()


def choose_threshold(dev: Sequence[Conversation]) -> tuple[float, float]:
    """Returns the cosine threshold that agrees best with the annotated turns, and its F1."""
    scores, truth = [], []
    for conversation, table in zip(dev, revealed(dev), strict=True):
        for facet, row in zip(_facets(conversation), table, strict=True):
            turn = facet.turn
            if turn is not None:
                scores += list(row)
                truth += [position >= turn for position in range(1, len(row) + 1)]
    cosine, truth_N = np.array(scores), np.array(truth)
    best = (0.5, 0.0)
    for threshold in np.arange(0.1, 0.9, 0.02):
        predicted_N = cosine >= threshold
        f1 = 2 * float((predicted_N & truth_N).sum()) / max(1.0, float(predicted_N.sum() + truth_N.sum()))
        best = max(best, (float(threshold), f1), key=lambda pair: pair[1])
    return best


def disclosure(conversations: Sequence[Conversation], threshold: float, counts: Floats) -> DisclosureCurve:
    """Returns the disclosure curve at a cosine threshold; `counts`: bootstrap counts (replicates, conversations)."""
    return _curve([table >= threshold for table in revealed(conversations)], counts)


def annotated(conversations: Sequence[Conversation], counts: Floats) -> DisclosureCurve:
    """Returns the disclosure curve by annotation; facets without an annotated turn are left out."""
    tables = []
    for conversation in conversations:
        turns = [t for facet in _facets(conversation) if (t := facet.turn) is not None]
        turn_count = max(1, len(user_texts(conversation)))
        tables.append(
            np.array([[p >= t for p in range(1, turn_count + 1)] for t in turns]).reshape(
                len(turns), turn_count
            )
        )
    return _curve(tables, counts)


def _curve(tables: Sequence[np.ndarray], counts: Floats) -> DisclosureCurve:
    sizes = np.array([len(table) for table in tables], dtype=np.float64)
    by_turn = []
    for turn in range(TURNS):
        revealed_facets = [
            table[:, min(turn, table.shape[1] - 1)].sum() if table.size else 0 for table in tables
        ]
        by_turn.append(bootstrap_ratio(np.array(revealed_facets, dtype=np.float64), sizes, counts))
    return DisclosureCurve(by_turn=tuple(by_turn))
