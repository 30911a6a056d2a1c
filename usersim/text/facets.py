"""Rule-based check that an assistant's text serves a hidden facet.

Sentences that ask or restate the wish do not count: "Do you need it gluten-free?" and "So you want it gluten-free."
serve
no facet. "Use buckwheat, it is gluten-free." does. Sentences with only words that the user has already said do not
count either.
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
"""Content words of acknowledgements, which add no information."""


def serves(
    text: str, facet: Facet, phrases: Sequence[str] = (), *, user_words: frozenset[str] = frozenset()
) -> bool:
    """Returns True if an informative sentence of the text serves the facet.

    Args:
        text: Text of the assistant.
        facet: Facet of the hidden goal.
        phrases: Phrases of which one has to occur. Without phrases at least half of the facet's content words must.
        user_words: Content words of the user so far. A sentence must have one that is not among them.
    """
    sentences = statements(text)
    if user_words:
        sentences = [s for s in sentences if content_words(s) - NODS - user_words]
    if phrases:
        return any(_pattern(phrase).search(sentence) for phrase in phrases for sentence in sentences)
    facet_words = content_words(facet.text)
    return bool(facet_words) and any(
        2 * len(facet_words & content_words(s)) >= len(facet_words) for s in sentences
    )


def statements(text: str) -> list[str]:
    """Returns the normalised sentences that neither ask nor restate the user's wish."""
    sentences = [normal(part) for part in SENTENCE.split(text)]
    return [s for s in sentences if s and not ASKS.search(s) and not RESTATES.search(s)]


def normal(text: str) -> str:
    """Normalises text: lower case, straight apostrophes, hyphens as spaces, single spaces."""
    text = text.lower().replace("\u2019", "'")
    return " ".join(re.sub(r"[-\u2010-\u2013]", " ", text).split())


def content_words(text: str) -> frozenset[str]:
    """Returns words of four letters or more and numbers, without stopwords and a plural s."""
    words = WORD.findall(normal(text))
    selected = (w for w in words if (len(w) > 3 and w not in STOPWORDS) or w.isdigit())
    return frozenset(w[:-1] if len(w) > 4 and w.endswith("s") else w for w in selected)


@cache
def _pattern(phrase: str) -> re.Pattern[str]:
    """Compiles a phrase to a pattern of whole words; a trailing * allows a longer last word ("vegetarian*")."""
    body = re.escape(normal(phrase.rstrip("*")))
    return re.compile(rf"(?<!\w){body}" + ("" if phrase.endswith("*") else r"(?!\w)"))


def coverage(
    window: Sequence[Turn], history: Sequence[Turn], facets: Sequence[Facet], phrases: Sequence[Sequence[str]]
) -> float:
    """Returns the share, in [0, 1], of facets not served in `history` that an assistant turn of `window` serves.

    It is 1.0 if the history served all facets: repeating them must not be rewarded.
    """
    rules = list(zip(facets, phrases or [()] * len(facets), strict=True))
    unserved = [rule for rule in rules if not _served(history, *rule)]
    # With the history, so that earlier words of the user count.
    both = [*history, *window]
    return sum(_served(both, *rule) for rule in unserved) / len(unserved) if unserved else 1.0


def _served(turns: Sequence[Turn], facet: Facet, phrases: Sequence[str]) -> bool:
    user_words: frozenset[str] = frozenset()
    for turn in turns:
        if turn.role == "user":
            user_words |= content_words(turn.text)
        elif serves(turn.text, facet, phrases, user_words=user_words):
            return True
    return False
