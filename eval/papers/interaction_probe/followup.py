"""Classification of continuations as genuine follow-ups, by rules and two measures of grounding, without a judge.

A genuine follow-up is not empty, does not restate the query, does not continue the assistant's text, and reacts
to *this* answer. The reaction is tested against answers to other queries, with the query fixed. Two conditions
must hold. The right answer makes the continuation likelier than each wrong one does (log-likelihood under the
probed model). And its embedding, with the query's direction removed, is nearer to the right answer than to half
of the wrong ones. By chance the first holds once in (wrong answers + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from eval.fidelity.metrics.gates import ROLE_LABEL
from usersim.stats.estimates import Floats
from usersim.text.style import words
from usersim.users.guards import ASSISTANT_SPEAK

Kind = Literal["genuine", "nothing said", "restates the query", "goes on as the assistant", "not grounded"]
KINDS: tuple[Kind, ...] = (
    "genuine",
    "nothing said",
    "restates the query",
    "goes on as the assistant",
    "not grounded",
)
COPIED_WORDS = 8
"""Words in a row from the answer, from which a turn continues the assistant's text."""
SAME_WORDS = 0.6
"""Jaccard index with the query's words from which a turn restates the query."""
SAME_MEANING = 0.85
"""Cosine with the query from which a turn restates the query."""
HELPS = (
    "here is", "here are", "here's", "sure", "certainly", "of course", "i can help", "i'd be happy", "to answer",
    "in summary", "in conclusion", "step 1", "i hope this", "let me know if", "you can use", "the answer is",
)  # fmt: skip
"""Beginnings of answers, in lower case."""


def kind_of(
    text: str,
    query: str,
    answer: str,
    *,
    cosine_query: float,
    grounded: bool,
    heard_as_assistant: bool = False,
) -> Kind:
    """Returns the first kind that applies. `heard_as_assistant` is the result of the voice classifier, where there
    is one."""
    if not words(text):
        return "nothing said"
    if restates(text, query) or cosine_query >= SAME_MEANING:
        return "restates the query"
    if heard_as_assistant or goes_on(text, answer):
        return "goes on as the assistant"
    return "genuine" if grounded else "not grounded"


def restates(text: str, query: str) -> bool:
    """Tests whether a text holds hardly more than the words of the query, or the query with text around it."""
    text_words, query_words = ([w.lower() for w in words(t)] for t in (text, query))
    if len(query_words) >= 3 and f" {' '.join(query_words)} " in f" {' '.join(text_words)} ":
        return True
    union = set(text_words) | set(query_words)
    return bool(union) and len(set(text_words) & set(query_words)) / len(union) >= SAME_WORDS


def goes_on(text: str, answer: str) -> bool:
    """Tests for a stock phrase or label of assistants, the beginning of an answer, or eight words in a row of the
    answer."""
    lower = " ".join(text.lower().split())
    if ASSISTANT_SPEAK.search(text) or ROLE_LABEL.match(text) or lower.startswith(HELPS):
        return True
    text_words, answer_words = ([w.lower() for w in words(t)] for t in (text, answer))
    padded_answer = f" {' '.join(answer_words)} "
    runs = (" ".join(text_words[i : i + COPIED_WORDS]) for i in range(len(text_words) - COPIED_WORDS + 1))
    return any(f" {run} " in padded_answer for run in runs)


def by_likelihood(right: float, wrong: Sequence[float]) -> bool:
    """Tests whether the text is likelier after the right answer than after every wrong one."""
    return right > max(wrong)


def ratio_nats(right: float, wrong: Sequence[float]) -> float:
    """Returns log P(text | right answer) minus the log of the mean P over wrong answers, nats."""
    wrong_nats = np.array(wrong)
    largest = float(wrong_nats.max())
    return float(right - largest - np.log(np.exp(wrong_nats - largest).mean()))


def uptake(text_D: Floats, query_D: Floats, answers_KD: Floats) -> Floats:
    """Returns the (K,) cosines of the text with the answers after the query's direction is removed from both.
    Similarity that exists only because both are about the query does not count. Inputs are unit vectors; 0 where
    nothing is left."""
    cosines: Floats = _unit(_without(answers_KD, query_D)) @ _unit(_without(text_D[None], query_D))[0]
    return cosines


def by_embedding(right: float, wrong: Sequence[float]) -> bool:
    """Tests whether the text is nearer to the right answer than to at least half of the wrong ones."""
    return right > float(np.median(wrong))


def _without(rows_KD: Floats, direction_D: Floats) -> Floats:
    return rows_KD - np.outer(rows_KD @ direction_D, direction_D)


def _unit(rows_KD: Floats) -> Floats:
    size = np.linalg.norm(rows_KD, axis=1, keepdims=True)
    unit: Floats = np.divide(rows_KD, size, out=np.zeros_like(rows_KD), where=size > 1e-6)
    return unit
