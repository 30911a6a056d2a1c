"""Rule-based matching of assistant replies to the facets of the hidden goal, without a judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from usersim.text.reply_acts import COMMON
from usersim.types import Conversation, Facet

Bools = NDArray[np.bool_]
Matcher = Callable[[Sequence[str], Sequence[str]], Bools]
"""(facets, sentences) → (F, S): True where the sentence serves the facet. Neither list is empty."""

COSINE = 0.4
"""Threshold of the MiniLM cosine between facet and sentence. With people's assistants in ShareGPT and Arena, 85 and
75 % of the own goal's facets reach it somewhere in the conversation, 2 and 1 % of another conversation's."""
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
ECHO = re.compile(
    r"\W*(?:(?:so|okay?|sure|great|got it|i see|i understand)\W+)*you (?:want|need|said|mention|ask)"
)
WORD = re.compile(r"[^\W_]+")
SHORT_WORD = 3


def statements(reply: str) -> list[str]:
    """Returns the informative sentences: no questions, no echo of the user's wish ("So you want …")."""
    parts = (part.strip() for part in SENTENCE.split(reply))
    return [part for part in parts if part and not part.endswith("?") and not ECHO.match(part.lower())]


def by_words(facets: Sequence[str], sentences: Sequence[str]) -> Bools:
    """Matches if the sentence has at least half of the facet's content words.

    Needs no model, but misses paraphrases.
    """
    positions: dict[str, list[int]] = {}
    for position, sentence in enumerate(sentences):
        for word in content_words(sentence):
            positions.setdefault(word, []).append(position)
    hits = np.zeros((len(facets), len(sentences)), dtype=np.bool_)
    for row, facet_words in enumerate(map(content_words, facets)):
        counts = np.zeros(len(sentences), dtype=np.int64)
        for word in facet_words:
            counts[positions.get(word, [])] += 1
        hits[row] = 2 * counts >= max(1, len(facet_words))
    return hits


def by_embedding(facets: Sequence[str], sentences: Sequence[str]) -> Bools:
    """Matches if the cosine is `COSINE` or more. Finds paraphrases, but confuses "under 50" and "under 500"."""
    from usersim.text.embeddings import embed

    return np.asarray(embed(facets) @ embed(sentences).T >= COSINE)


MATCHERS: dict[str, Matcher] = {"embedding": by_embedding, "words": by_words}


def content_words(text: str) -> frozenset[str]:
    """Returns lower-case words without a plural s; common words and words of up to three letters are left out."""
    words = (w for w in WORD.findall(text.lower()) if w not in COMMON)
    selected = (w for w in words if len(w) > SHORT_WORD or w.isdigit())
    return frozenset(w[:-1] if len(w) > 4 and w.endswith("s") else w for w in selected)


def facets_of(conversation: Conversation) -> tuple[Facet, ...]:
    goal = conversation.profile.goal
    return goal.facets if goal else ()


def served_tables(conversations: Sequence[Conversation], matcher: Matcher) -> list[Bools]:
    """Returns a table (F, R) per conversation: True if facet f is served in assistant reply r or before.

    All texts are matched in one call.
    """
    facets = list(dict.fromkeys(f.text for c in conversations for f in facets_of(c)))
    replies = [[statements(t.text) for t in c.turns if t.role == "assistant"] for c in conversations]
    sentences = list(
        dict.fromkeys(s for reply_sentences in replies for reply in reply_sentences for s in reply)
    )
    row = {text: index for index, text in enumerate(facets)}
    column = {text: index for index, text in enumerate(sentences)}
    hits = matcher(facets, sentences) if facets and sentences else np.zeros((len(facets), 0), dtype=np.bool_)
    tables = []
    for conversation, reply_sentences in zip(conversations, replies, strict=True):
        rows = [row[f.text] for f in facets_of(conversation)]
        table = np.zeros((len(rows), len(reply_sentences)), dtype=np.bool_)
        for reply_index, reply in enumerate(reply_sentences):
            columns = [column[s] for s in reply]
            table[:, reply_index] = hits[np.ix_(rows, columns)].any(axis=1)
        tables.append(np.logical_or.accumulate(table, axis=1))
    return tables
