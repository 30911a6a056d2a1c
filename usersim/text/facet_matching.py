"""Which facets of the hidden goal an assistant's replies serve, by a rule and without a judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from usersim.text.reply_acts import COMMON
from usersim.types import Conversation, Facet

Bools = NDArray[np.bool_]
Matcher = Callable[[Sequence[str], Sequence[str]], Bools]
"""(facets, sentences) → (F, S): whether the sentence serves the facet. Neither list is empty."""

COSINE = 0.4
"""MiniLM, facet against sentence. People's assistants in ShareGPT and Arena: 85 and 75 % of the own goal's facets
reach it somewhere in the conversation, 2 and 1 % of another conversation's."""
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
ECHO = re.compile(
    r"\W*(?:(?:so|okay?|sure|great|got it|i see|i understand)\W+)*you (?:want|need|said|mention|ask)"
)
WORD = re.compile(r"[^\W_]+")
SHORT_WORD = 3


def statements(reply: str) -> list[str]:
    """The sentences that give something: no questions, no echo of what the user wants ("So you want …")."""
    parts = (part.strip() for part in SENTENCE.split(reply))
    return [part for part in parts if part and not part.endswith("?") and not ECHO.match(part.lower())]


def by_words(facets: Sequence[str], sentences: Sequence[str]) -> Bools:
    """At least half of the facet's content words stand in the sentence. Needs no model; paraphrase is missed."""
    places: dict[str, list[int]] = {}
    for place, sentence in enumerate(sentences):
        for word in content_words(sentence):
            places.setdefault(word, []).append(place)
    hits = np.zeros((len(facets), len(sentences)), dtype=np.bool_)
    for row, wanted in enumerate(map(content_words, facets)):
        counts = np.zeros(len(sentences), dtype=np.int64)
        for word in wanted:
            counts[places.get(word, [])] += 1
        hits[row] = 2 * counts >= max(1, len(wanted))
    return hits


def by_embedding(facets: Sequence[str], sentences: Sequence[str]) -> Bools:
    """A cosine of `COSINE` or more. Paraphrase is seen; "under 50" and "under 500" are alike."""
    from usersim.text.embeddings import embed

    return np.asarray(embed(facets) @ embed(sentences).T >= COSINE)


MATCHERS: dict[str, Matcher] = {"embedding": by_embedding, "words": by_words}


def content_words(text: str) -> frozenset[str]:
    """Lower case, without common words, words of up to three letters and a plural s; numbers stay."""
    words = (w for w in WORD.findall(text.lower()) if w not in COMMON)
    kept = (w for w in words if len(w) > SHORT_WORD or w.isdigit())
    return frozenset(w[:-1] if len(w) > 4 and w.endswith("s") else w for w in kept)


def facets_of(conversation: Conversation) -> tuple[Facet, ...]:
    goal = conversation.profile.goal
    return goal.facets if goal else ()


def served_tables(conversations: Sequence[Conversation], matcher: Matcher) -> list[Bools]:
    """Per conversation (F, R): facet f is served in assistant reply r or before. All texts are matched in one go."""
    facets = list(dict.fromkeys(f.text for c in conversations for f in facets_of(c)))
    replies = [[statements(t.text) for t in c.turns if t.role == "assistant"] for c in conversations]
    sentences = list(dict.fromkeys(s for spoken in replies for reply in spoken for s in reply))
    row = {text: index for index, text in enumerate(facets)}
    column = {text: index for index, text in enumerate(sentences)}
    hits = matcher(facets, sentences) if facets and sentences else np.zeros((len(facets), 0), dtype=np.bool_)
    tables = []
    for conversation, spoken in zip(conversations, replies, strict=True):
        rows = [row[f.text] for f in facets_of(conversation)]
        table = np.zeros((len(rows), len(spoken)), dtype=np.bool_)
        for place, reply in enumerate(spoken):
            columns = [column[s] for s in reply]
            table[:, place] = hits[np.ix_(rows, columns)].any(axis=1)
        tables.append(np.logical_or.accumulate(table, axis=1))
    return tables
