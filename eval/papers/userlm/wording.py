"""First-turn diversity and intent decomposition: two metrics that count words of finished conversations.

*First-turn diversity* is 1 minus the mean Jaccard index of the unigram sets of two first turns (words and marks,
lower case). Noise raises it, so the aim is the human value and not the highest.

*Intent decomposition* is the share of a turn's content words that the goal also has; the paper calls a lower
share better. A user who talks about another topic scores best, so it is read only beside relevance. Relevance is
the share of other people's goals that are further from the turn than its own goal (sentence embeddings; 0.5 is
chance). Goals of human conversations were written by annotators who read them, which favours people on relevance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]

from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.matching import person_of, task_clusters
from eval.likelihood.goals import overlap
from eval.papers.userlm.metric_rows import ByTurn, Row, Value, ratio
from usersim.stats.estimates import Estimate, Floats, cluster_resamples, rng_for
from usersim.text.embeddings import embed
from usersim.types import Conversation

TURNS = ("1", "2", "3", "4", "5+")
OTHER_GOALS = 99
UNIGRAM = r"\w+|[^\w\s]"


def jaccard(texts: Sequence[str]) -> Floats:
    """Returns (N, N) Jaccard indices of the unigram sets; every text must have a unigram."""
    rows = CountVectorizer(binary=True, token_pattern=UNIGRAM).fit_transform(texts).astype(np.float64)
    shared = (rows @ rows.T).toarray()
    sizes = np.diag(shared)
    index: Floats = shared / (sizes[:, None] + sizes[None] - shared)
    return index


def diversity(texts: Sequence[str], counts_BN: Floats) -> Value:
    """Returns 1 - mean Jaccard over pairs of different conversations; a conversation is never paired with its own
    copy."""
    jaccard_NN = jaccard(texts)
    counts = np.vstack([np.ones(len(texts)), counts_BN])
    self_pairs = (counts**2).sum(1)
    pairs = counts.sum(1) ** 2 - self_pairs
    similar_pairs = ((counts @ jaccard_NN) * counts).sum(1) - self_pairs
    rates = np.divide(pairs - similar_pairs, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)
    return Value(value=float(rates[0]), replicates=rates[1:], n=len(texts))


@dataclass(frozen=True)
class SpeakerSample:
    """Conversations of one speaker with the resamples that all its metrics share; clusters are goals or persons."""

    name: str
    conversations: tuple[Conversation, ...]
    counts_BN: Floats

    @classmethod
    def of(cls, name: str, conversations: Sequence[Conversation], bootstrap: int, seed: int) -> SpeakerSample:
        simulated = conversations and conversations[0].origin == "simulated"
        clusters = task_clusters(conversations) if simulated else [person_of(c) for c in conversations]
        counts = cluster_resamples(clusters, bootstrap, rng_for(seed, f"resamples {name}"))
        return cls(name, tuple(conversations), counts)


def first_turns(side: SpeakerSample, people: SpeakerSample) -> Row:
    simulated_diversity, human_diversity = (
        diversity([user_texts(c)[0] for c in s.conversations], s.counts_BN) for s in (side, people)
    )
    return Row(
        metric="first-turn diversity",
        speaker=side.name,
        key="diversity",
        label="1 - Jaccard of first turns",
        better="as people",
        value=simulated_diversity.estimate,
        human=human_diversity.estimate,
        gap=simulated_diversity.less(human_diversity),
    )


@dataclass(frozen=True)
class Decomposition:
    """Sums and numbers of turns per conversation and turn bucket. (conversations, 5)."""

    overlap_NT: Floats
    overlap_n_NT: Floats
    relevance_NT: Floats
    relevance_n_NT: Floats


def decompose(conversations: Sequence[Conversation], seed: int) -> Decomposition:
    """Decomposes conversations with a goal and a user turn; relevance needs at least two different goals."""
    tables = [np.zeros((len(conversations), len(TURNS))) for _ in range(4)]
    relevance_by_turn = relevance(conversations, seed)
    for row, conversation in enumerate(conversations):
        summary = _summary(conversation)
        for index, text in enumerate(user_texts(conversation)):
            bucket = min(index, len(TURNS) - 1)
            shared = overlap(text, summary)
            if shared is not None:
                tables[0][row, bucket] += shared
                tables[1][row, bucket] += 1
            if relevance_by_turn is not None:
                tables[2][row, bucket] += relevance_by_turn[row][index]
                tables[3][row, bucket] += 1
    return Decomposition(*tables)


def relevance(conversations: Sequence[Conversation], seed: int) -> list[list[float]] | None:
    """Returns, per conversation and user turn, the share of at most 99 other goals whose cosine to the turn is below
    the own goal's, ties half. None where all have the same goal."""
    goals = sorted({_summary(c) for c in conversations})
    if len(goals) < 2:
        return None
    vectors = embed(goals)
    texts = [text for c in conversations for text in user_texts(c)]
    vectors_of_turns, position, shares = embed(texts), 0, []
    rng = rng_for(seed, "other goals of relevance")
    for conversation in conversations:
        own_goal = goals.index(_summary(conversation))
        others = rng.permutation([i for i in range(len(goals)) if i != own_goal])[:OTHER_GOALS]
        size = len(user_texts(conversation))
        turns, position = vectors_of_turns[position : position + size], position + size
        own_cosines, other_cosines = turns @ vectors[own_goal], turns @ vectors[others].T
        below = (other_cosines < own_cosines[:, None]).mean(1) + (other_cosines == own_cosines[:, None]).mean(
            1
        ) / 2
        shares.append([float(share) for share in below])
    return shares


def _summary(conversation: Conversation) -> str:
    goal = conversation.profile.goal
    assert goal is not None, "only conversations with a goal are measured"
    return goal.summary


def decomposition_rows(
    side: SpeakerSample, simulated: Decomposition, people: SpeakerSample, human: Decomposition
) -> list[Row]:
    """Returns overlap and relevance over all turns. The note says whether the overlap is meaningful."""
    pairs = {
        "overlap": (
            _all(simulated.overlap_NT, simulated.overlap_n_NT, side),
            _all(human.overlap_NT, human.overlap_n_NT, people),
        ),
        "relevance": (
            _all(simulated.relevance_NT, simulated.relevance_n_NT, side),
            _all(human.relevance_NT, human.relevance_n_NT, people),
        ),
    }
    labels = {
        "overlap": "content words shared with the goal",
        "relevance": "nearer to own goal than to others'",
    }
    rows = []
    for key, (simulated_value, human_value) in pairs.items():
        if simulated_value is not None and human_value is not None:
            rows.append(
                Row(
                    metric="intent decomposition",
                    speaker=side.name,
                    key=key,
                    label=labels[key],
                    better="as people" if key == "overlap" else "higher",
                    value=simulated_value.estimate,
                    human=human_value.estimate,
                    gap=simulated_value.less(human_value),
                )
            )
    off_topic = any(r.key == "relevance" and r.gap and r.gap.high < 0 for r in rows)
    note = "less on topic than people: a low overlap is no merit here" if off_topic else ""
    return [r.model_copy(update={"note": note}) if r.key == "overlap" else r for r in rows]


def _all(above_NT: Floats, below_NT: Floats, side: SpeakerSample) -> Value | None:
    return ratio(above_NT.sum(1), below_NT.sum(1), side.counts_BN)


def by_turn(side: SpeakerSample, decomposition: Decomposition) -> ByTurn:
    def curve(above_NT: Floats, below_NT: Floats) -> tuple[Estimate | None, ...]:
        values = [ratio(a, b, side.counts_BN) for a, b in zip(above_NT.T, below_NT.T, strict=True)]
        return tuple(value.estimate if value else None for value in values)

    return ByTurn(
        speaker=side.name,
        turns=TURNS,
        overlap=curve(decomposition.overlap_NT, decomposition.overlap_n_NT),
        relevance=curve(decomposition.relevance_NT, decomposition.relevance_n_NT),
    )
