"""Whether a hidden facet ends up served in what an assistant says, judged by rules.

A sentence that asks, hands the question back or merely restates the wish earns nothing: "Do you need it
gluten-free?" and "So you want it gluten-free." serve nobody, "Use buckwheat, it is gluten-free." does. Nor does a
sentence of nothing but words that the user has said already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from usersim.types import Facet, Turn

SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
ASKS = re.compile(
    r"\?\W*$|\b(?:let me know|tell me|please (?:share|specify|provide|confirm|clarify|say)|could you|can you"
    r"|would you|do you|are you|i need to know|i(?:'d| would) like to know)\b"
)
RESTATES = re.compile(
    r"^\W*(?:(?:so|ok|okay|got it|i see|i understand|understood|great|sure|right)\W+)*(?:that )?"
    r"you(?:'d|'re| are| would| have)? (?:want|need|like|love|prefer|said|say|mention|look|ask|request|plan)"
)
STOPWORDS = frozenset(
    (
        *(
            "about",
            "after",
            "also",
            "been",
            "before",
            "being",
            "does",
            "each",
            "every",
            "from",
            "have",
            "into",
        ),
        *("more", "most", "must", "need", "needs", "never", "only", "over", "should", "some", "than", "that"),
        *("their", "them", "there", "they", "this", "until", "very", "want", "wants", "were", "what", "when"),
        *("where", "which", "while", "will", "with", "without", "would", "your"),
    )
)
WORD = re.compile(r"[^\W_]+")
NODS = frozenset(
    {"alright", "fine", "good", "great", "noted", "okay", "perfect", "right", "sure", "thank", "understood"}
)
"""Content words of a sentence that brings nothing new."""


def serves(
    said: str, facet: Facet, phrases: Sequence[str] = (), *, heard: frozenset[str] = frozenset()
) -> bool:
    """One of `phrases` stands in a sentence of `said` that gives something.

    Without phrases: at least half of the facet's content words stand in one such sentence. `heard`: content words
    of the user so far; a sentence must have one that is not among them.
    """
    given = statements(said)
    if heard:
        given = [s for s in given if content_words(s) - NODS - heard]
    if phrases:
        return any(_pattern(phrase).search(sentence) for phrase in phrases for sentence in given)
    wanted = content_words(facet.text)
    return bool(wanted) and any(2 * len(wanted & content_words(s)) >= len(wanted) for s in given)


def statements(said: str) -> list[str]:
    """The sentences of `said`, normalised, that neither ask nor restate what the user wants."""
    sentences = [normal(part) for part in SENTENCE.split(said)]
    return [s for s in sentences if s and not ASKS.search(s) and not RESTATES.search(s)]


def normal(text: str) -> str:
    """Lower case, straight apostrophes, hyphens as spaces, single spaces."""
    text = text.lower().replace("\u2019", "'")
    return " ".join(re.sub(r"[-\u2010-\u2013]", " ", text).split())


def content_words(text: str) -> frozenset[str]:
    """Words of four letters or more and numbers, without stopwords and a plural s."""
    words = WORD.findall(normal(text))
    kept = (w for w in words if (len(w) > 3 and w not in STOPWORDS) or w.isdigit())
    return frozenset(w[:-1] if len(w) > 4 and w.endswith("s") else w for w in kept)


@cache
def _pattern(phrase: str) -> re.Pattern[str]:
    """Whole words; a trailing * lets the last word go on ("vegetarian*")."""
    body = re.escape(normal(phrase.rstrip("*")))
    return re.compile(rf"(?<!\w){body}" + ("" if phrase.endswith("*") else r"(?!\w)"))


def coverage(
    window: Sequence[Turn], history: Sequence[Turn], facets: Sequence[Facet], phrases: Sequence[Sequence[str]]
) -> float:
    """Share, in [0, 1], of the facets not yet served in `history` that an assistant turn of `window` serves.

    1.0 where the history served them all: saying them again must not pay.
    """
    rules = list(zip(facets, phrases or [()] * len(facets), strict=True))
    unserved = [rule for rule in rules if not _served(history, *rule)]
    # From the beginning, so that what the user has said before counts as said.
    both = [*history, *window]
    return sum(_served(both, *rule) for rule in unserved) / len(unserved) if unserved else 1.0


def _served(turns: Sequence[Turn], facet: Facet, phrases: Sequence[str]) -> bool:
    heard: frozenset[str] = frozenset()
    for turn in turns:
        if turn.role == "user":
            heard |= content_words(turn.text)
        elif serves(turn.text, facet, phrases, heard=heard):
            return True
    return False
