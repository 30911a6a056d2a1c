"""Is a continuation a genuine follow-up? By rules and two measures of grounding, without a judge.

A follow-up is genuine when it is something, does not restate the query, does not go on as the assistant, and reacts to
*this* answer. The last is tested against answers to other queries, the query held fixed: the right answer must make
the continuation likelier than each wrong one does (log-likelihood under the probed model), and its embedding, with
the query's direction taken out, must lie nearer to the right answer than to half of the wrong ones. By chance the first
happens once in (wrong answers + 1).
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
"""In a row from the answer: the assistant's text goes on."""
SAME_WORDS = 0.6
"""Jaccard index of the words with the query's from which a turn restates it."""
SAME_MEANING = 0.85
"""Cosine with the query from which a turn restates it."""
HELPS = (
    "here is", "here are", "here's", "sure", "certainly", "of course", "i can help", "i'd be happy", "to answer",
    "in summary", "in conclusion", "step 1", "i hope this", "let me know if", "you can use", "the answer is",
)  # fmt: skip
"""Beginnings of answers, lower case."""


def kind_of(
    text: str,
    query: str,
    answer: str,
    *,
    cosine_query: float,
    grounded: bool,
    heard_as_assistant: bool = False,
) -> Kind:
    """The first that applies. `heard_as_assistant`: what a classifier of voices says, where there is one."""
    if not words(text):
        return "nothing said"
    if restates(text, query) or cosine_query >= SAME_MEANING:
        return "restates the query"
    if heard_as_assistant or goes_on(text, answer):
        return "goes on as the assistant"
    return "genuine" if grounded else "not grounded"


def restates(text: str, query: str) -> bool:
    """Hardly anything but the words of the query, or the query with something around it."""
    mine, theirs = ([w.lower() for w in words(t)] for t in (text, query))
    if len(theirs) >= 3 and f" {' '.join(theirs)} " in f" {' '.join(mine)} ":
        return True
    union = set(mine) | set(theirs)
    return bool(union) and len(set(mine) & set(theirs)) / len(union) >= SAME_WORDS


def goes_on(text: str, answer: str) -> bool:
    """A stock phrase or label of assistants, the beginning of an answer, or eight words in a row of the last one."""
    lower = " ".join(text.lower().split())
    if ASSISTANT_SPEAK.search(text) or ROLE_LABEL.match(text) or lower.startswith(HELPS):
        return True
    mine, theirs = ([w.lower() for w in words(t)] for t in (text, answer))
    given = f" {' '.join(theirs)} "
    runs = (" ".join(mine[i : i + COPIED_WORDS]) for i in range(len(mine) - COPIED_WORDS + 1))
    return any(f" {run} " in given for run in runs)


def by_likelihood(right: float, wrong: Sequence[float]) -> bool:
    """Likelier after the right answer than after every wrong one."""
    return right > max(wrong)


def ratio_nats(right: float, wrong: Sequence[float]) -> float:
    """log P(text | right answer) less the log of the mean P over wrong answers, nats."""
    found = np.array(wrong)
    top = float(found.max())
    return float(right - top - np.log(np.exp(found - top).mean()))


def uptake(text_D: Floats, query_D: Floats, answers_KD: Floats) -> Floats:
    """(K,) cosines of the text with answers after the query's direction is taken out of both: what is shared with
    an answer only because both are about the query does not count. Unit vectors in; 0 where nothing is left."""
    taken: Floats = _unit(_without(answers_KD, query_D)) @ _unit(_without(text_D[None], query_D))[0]
    return taken


def by_embedding(right: float, wrong: Sequence[float]) -> bool:
    """Nearer to the right answer than to at least half of the wrong ones."""
    return right > float(np.median(wrong))


def _without(rows_KD: Floats, direction_D: Floats) -> Floats:
    return rows_KD - np.outer(rows_KD @ direction_D, direction_D)


def _unit(rows_KD: Floats) -> Floats:
    size = np.linalg.norm(rows_KD, axis=1, keepdims=True)
    unit: Floats = np.divide(rows_KD, size, out=np.zeros_like(rows_KD), where=size > 1e-6)
    return unit
