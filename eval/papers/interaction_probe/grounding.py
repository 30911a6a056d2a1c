"""How well each text fits the right answer and the wrong ones: by likelihood, kept on disk, and by embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eval.papers.interaction_probe.contexts import Context
from eval.papers.interaction_probe.followup import uptake
from eval.papers.interaction_probe.model import Likelihood
from usersim.chat_models.answer_cache import AnswerCache, key_of
from usersim.text.embeddings import embed
from usersim.types import Turn


def likelihoods(
    scorer: Likelihood,
    contexts: Sequence[Context],
    texts: Sequence[Sequence[str]],
    *,
    identity: Mapping[str, str],
    cache: AnswerCache,
    done: Callable[[], None],
) -> list[dict[str, list[float]]]:
    """Per context and text: log P after the right answer, then after each wrong one. Kept on disk by context."""
    found = []
    for context, said in zip(contexts, texts, strict=True):
        answers = answers_of(context, contexts)
        key = key_of({**identity, "query": context.query, "answers": answers, "texts": list(said)})
        kept = cache.get(key)
        if kept is None:
            kept = {
                "nats": [scorer.score(_exchange(context.query, a), said) for a in answers] if said else []
            }
            cache.put(key, kept)
        found.append({text: [row[i] for row in kept["nats"]] for i, text in enumerate(said)})
        done()
    return found


def _exchange(query: str, answer: str) -> tuple[Turn, ...]:
    return (Turn(role="user", text=query), Turn(role="assistant", text=answer))


def answers_of(context: Context, contexts: Sequence[Context]) -> list[str]:
    """The right one, then the wrong candidates; the last of `others` is what a null was shown and no candidate."""
    return [context.answer, *(contexts[i].answer for i in context.others[:-1])]


def embeddings(
    contexts: Sequence[Context], texts: Sequence[Sequence[str]]
) -> list[dict[str, tuple[float, list[float]]]]:
    """Per context and text: (cosine with the query, uptake of the right answer and of each wrong one)."""
    every = [t for c in contexts for t in (c.query, c.answer)] + [t for said in texts for t in said]
    distinct = list(dict.fromkeys(every))
    vectors = dict(zip(distinct, embed(distinct).astype(np.float64), strict=True))
    found = []
    for context, said in zip(contexts, texts, strict=True):
        query = vectors[context.query]
        answers = np.array([vectors[answer] for answer in answers_of(context, contexts)])
        found.append(
            {
                text: (
                    float(vectors[text] @ query),
                    [float(x) for x in uptake(vectors[text], query, answers)],
                )
                for text in said
            }
        )
    return found
