"""Fit of each text with the right answer and the wrong ones: by likelihood, cached on disk, and by embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eval.papers.interaction_probe.contexts import ProbeContext
from eval.papers.interaction_probe.followup import uptake
from eval.papers.interaction_probe.model import TextLikelihood
from usersim.chat_models.answer_cache import AnswerCache, key_of
from usersim.text.embeddings import embed
from usersim.types import Turn


def likelihoods(
    scorer: TextLikelihood,
    contexts: Sequence[ProbeContext],
    texts: Sequence[Sequence[str]],
    *,
    cache_keys: Mapping[str, str],
    cache: AnswerCache,
    done: Callable[[], None],
) -> list[dict[str, list[float]]]:
    """Returns, per context and text, log P after the right answer, then after each wrong one. Cached on disk by
    context."""
    scores_by_text = []
    for context, context_texts in zip(contexts, texts, strict=True):
        answers = answers_of(context, contexts)
        key = key_of({**cache_keys, "query": context.query, "answers": answers, "texts": list(context_texts)})
        cached = cache.get(key)
        if cached is None:
            cached = {
                "nats": [scorer.score(_exchange(context.query, a), context_texts) for a in answers]
                if context_texts
                else []
            }
            cache.put(key, cached)
        scores_by_text.append(
            {text: [row[i] for row in cached["nats"]] for i, text in enumerate(context_texts)}
        )
        done()
    return scores_by_text


def _exchange(query: str, answer: str) -> tuple[Turn, ...]:
    return (Turn(role="user", text=query), Turn(role="assistant", text=answer))


def answers_of(context: ProbeContext, contexts: Sequence[ProbeContext]) -> list[str]:
    """Returns the right answer, then the wrong candidates. The last of `others` is the null condition's answer and
    no candidate."""
    return [context.answer, *(contexts[i].answer for i in context.others[:-1])]


def embeddings(
    contexts: Sequence[ProbeContext], texts: Sequence[Sequence[str]]
) -> list[dict[str, tuple[float, list[float]]]]:
    """Returns, per context and text, (cosine with the query, uptake of the right answer and of each wrong one)."""
    all_texts = [t for c in contexts for t in (c.query, c.answer)] + [
        t for context_texts in texts for t in context_texts
    ]
    distinct = list(dict.fromkeys(all_texts))
    vectors = dict(zip(distinct, embed(distinct).astype(np.float64), strict=True))
    embeddings_by_text = []
    for context, context_texts in zip(contexts, texts, strict=True):
        query = vectors[context.query]
        answers = np.array([vectors[answer] for answer in answers_of(context, contexts)])
        embeddings_by_text.append(
            {
                text: (
                    float(vectors[text] @ query),
                    [float(x) for x in uptake(vectors[text], query, answers)],
                )
                for text in context_texts
            }
        )
    return embeddings_by_text
