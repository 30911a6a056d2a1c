"""Goal following: does what is said fit the hidden goal, bit by bit, in words of its own?"""

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
    candidates: int = CANDIDATES
    likelihood: dict[str, Estimate]
    """By model: share of real openings that are likeliest under their own goal."""
    embedding: dict[str, Estimate]
    """By speaker: share of openings whose embedding is nearest to the own goal's."""


class Wording(Record):
    """Content words of the goal among the user's content words (intent decomposition, Naous et al. 2025, §4)."""

    first: Estimate
    later: Estimate | None


class Disclosure(Record):
    """Share of facets revealed by user turn 1, 2, …; a conversation that is over keeps its last value."""

    by_turn: tuple[Estimate, ...]


class GoalReport(Record):
    retrieval: Retrieval
    wording: dict[str, Wording]
    disclosure: dict[str, Disclosure]
    disclosure_threshold: float | None
    """Cosine from which a sentence reveals a facet, chosen on dev where annotators named the turn."""
    disclosure_agreement: float | None
    """F1 of "revealed by this turn" against the annotators on dev, at that threshold."""


def picked(nats: Sequence[Sequence[float]]) -> Estimate:
    """Share of rows whose first entry is the smallest alone."""
    return wilson(sum(row[0] < min(row[1:]) for row in nats), len(nats))


def nearest_goal(texts: Mapping[str, str], conversations: Sequence[Conversation], seed: int) -> Estimate:
    """Of the openings by conversation id, the share that lies nearest to its own goal among the candidates."""
    hits = n = 0
    summaries = embed([_summary(c) for c in conversations])
    place = {c.id: index for index, c in enumerate(conversations)}
    spoken = [c.id for c in conversations if c.id in texts]
    vectors = dict(zip(spoken, embed([texts[i] for i in spoken]), strict=True))
    for own, group in zip(conversations, candidates(conversations, seed), strict=True):
        if own.id in vectors:
            cosines = summaries[[place[c.id] for c in group]] @ vectors[own.id]
            hits += bool(cosines[0] > max(cosines[1:]))
            n += 1
    return wilson(hits, n)


def _summary(conversation: Conversation) -> str:
    goal = conversation.profile.goal
    return goal.summary if goal else ""


def overlap(said: str, goal: str) -> float | None:
    """Share of the content words said that the goal has too; None where nothing with content is said."""
    spoken, given = content(said), content(goal)
    return len(spoken & given) / len(spoken) if spoken else None


def content(text: str) -> set[str]:
    return {word for word in map(str.lower, words(text)) if word not in ENGLISH_STOP_WORDS}


def wording(
    first: Mapping[str, str],
    later: Mapping[str, Sequence[str]],
    people: Sequence[Conversation],
    counts: Floats,
) -> Wording:
    """`first` and `later`: the turns said, by conversation id; a conversation weighs by its turns."""
    ends = _wording([[first[c.id]] if c.id in first else [] for c in people], people, counts)
    assert ends is not None, "no opening at all"
    return Wording(first=ends, later=_wording([list(later.get(c.id, ())) for c in people], people, counts))


def _wording(
    said: Sequence[Sequence[str]], people: Sequence[Conversation], counts: Floats
) -> Estimate | None:
    above, below = np.zeros(len(people)), np.zeros(len(people))
    for index, (texts, person) in enumerate(zip(said, people, strict=True)):
        found = [share for text in texts if (share := overlap(text, _summary(person))) is not None]
        above[index], below[index] = sum(found), len(found)
    return bootstrap_ratio(above, below, counts) if below.sum() else None


# -- disclosure ------------------------------------------------------------------------------------


def revealed(conversations: Sequence[Conversation]) -> list[Floats]:
    """Per conversation (facets, turns): the greatest cosine of a facet with any sentence said up to each turn."""
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
    """(cosine, F1) at which "revealed by this turn" agrees best with the annotated turns."""
    scores, truth = [], []
    for conversation, table in zip(dev, revealed(dev), strict=True):
        for facet, row in zip(_facets(conversation), table, strict=True):
            turn = facet.turn
            if turn is not None:
                scores += list(row)
                truth += [position >= turn for position in range(1, len(row) + 1)]
    cosine, known = np.array(scores), np.array(truth)
    best = (0.5, 0.0)
    for threshold in np.arange(0.1, 0.9, 0.02):
        said = cosine >= threshold
        f1 = 2 * float((said & known).sum()) / max(1.0, float(said.sum() + known.sum()))
        best = max(best, (float(threshold), f1), key=lambda pair: pair[1])
    return best


def disclosure(conversations: Sequence[Conversation], threshold: float, counts: Floats) -> Disclosure:
    return _curve([table >= threshold for table in revealed(conversations)], counts)


def annotated(conversations: Sequence[Conversation], counts: Floats) -> Disclosure:
    """By the annotators' word alone; facets without a turn are left out."""
    tables = []
    for conversation in conversations:
        turns = [t for facet in _facets(conversation) if (t := facet.turn) is not None]
        spoken = max(1, len(user_texts(conversation)))
        tables.append(
            np.array([[p >= t for p in range(1, spoken + 1)] for t in turns]).reshape(len(turns), spoken)
        )
    return _curve(tables, counts)


def _curve(tables: Sequence[np.ndarray], counts: Floats) -> Disclosure:
    sizes = np.array([len(table) for table in tables], dtype=np.float64)
    by_turn = []
    for turn in range(TURNS):
        told = [table[:, min(turn, table.shape[1] - 1)].sum() if table.size else 0 for table in tables]
        by_turn.append(bootstrap_ratio(np.array(told, dtype=np.float64), sizes, counts))
    return Disclosure(by_turn=tuple(by_turn))
