"""Near-copies: conversations whose user turns have nearly the same words, such as a reference person with a
word moved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

from eval.fidelity.metrics.gates import GateResult
from eval.fidelity.samples.features import user_texts
from eval.fidelity.settings import TRUSTED_N
from usersim.stats.estimates import newcombe, wilson
from usersim.types import Conversation

ALIKE = 0.8
"""Cosine of the words of two users, weighted by rarity, from which one is a near-copy of the other."""
FEWEST_WORDS = 8
"""Users with fewer different words can be equal by chance; word-for-word copies are checked elsewhere."""


def alike(conversations: Sequence[Conversation]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (first indices, second indices) of the pairs that are near-copies, in both orders, without pairs of a
    conversation with itself."""
    texts = [" ".join(user_texts(conversation)) for conversation in conversations]
    long_enough = np.array([len(set(text.split())) >= FEWEST_WORDS for text in texts], dtype=bool)
    if long_enough.sum() < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    indices = np.flatnonzero(long_enough)
    vectoriser = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
    rows = vectoriser.fit_transform([texts[index] for index in indices])
    pairs = (rows @ rows.T).tocoo()
    is_near = (pairs.data >= ALIKE) & (pairs.row != pairs.col)
    return indices[pairs.row[is_near]], indices[pairs.col[is_near]]


def clusters(conversations: Sequence[Conversation]) -> list[int]:
    """Returns a cluster number per conversation, shared by near-copies, also through others."""
    first_indices, second_indices = alike(conversations)
    shape = (len(conversations), len(conversations))
    graph = coo_matrix((np.ones(len(first_indices)), (first_indices, second_indices)), shape=shape)
    return [int(label) for label in connected_components(graph, directed=False)[1]]


def copies_gate(simulated: Sequence[Conversation], human: Sequence[Conversation]) -> GateResult:
    """Returns the share of simulated conversations that are near-copies of a human one, beside the share of human ones
    that are near-copies of other people's."""
    first_indices, second_indices = alike([*simulated, *human])
    of_human = second_indices >= len(simulated)
    copy_indices = np.unique(first_indices[of_human])
    simulated_share = wilson(int((copy_indices < len(simulated)).sum()), len(simulated))
    human_share = wilson(int((copy_indices >= len(simulated)).sum()), len(human))
    gap = newcombe(simulated_share, human_share)
    return GateResult(
        key="near_copy",
        label="a near-copy of a human conversation",
        simulated=simulated_share,
        human=human_share,
        difference=gap,
        verdict="too few" if gap.n < TRUSTED_N else "different" if gap.low > 0 else "inconclusive",
    )
