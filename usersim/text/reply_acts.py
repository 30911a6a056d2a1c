"""Rule-based acts of an assistant's reply: asks, refuses, makes progress. English, without a judge."""

from __future__ import annotations

import re
from collections.abc import Sequence

from usersim.text.spelling import word_set
from usersim.text.style import words

FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n")
OFFER = re.compile(
    r"anything else|any (?:other|more|further) questions|would you like me|do you want me|shall i|should i"
    r"|can i (?:help|assist)|(?:does|did) (?:that|this) (?:help|answer)|how (?:can|may) i",
    re.IGNORECASE,
)
"""Assistant questions that are not about the goal."""
REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able|afraid)\b|\bi (?:cannot|can't|won't|don't have (?:access|information))\b"
    r"|\bas an ai\b|\bi do not have\b",
    re.IGNORECASE,
)
REFUSES_WITHIN = 160
"""Number of first characters of a reply that are searched for a refusal."""
COMMON = word_set(
    "a an and any are as at be by can could do does for from had has have how i if in is it its like me my "
    "need not of on or our please should so some that the their them then there this to us want was we what "
    "when where which who will with would you your"
)


def questions(reply: str) -> list[str]:
    """Returns the questions of the prose, without code and offers of help."""
    candidates = (
        piece for piece in SENTENCE.split(FENCE.sub(" ", reply)) if piece.rstrip(" *_\"')").endswith("?")
    )
    return [sentence for sentence in candidates if words(sentence) and not OFFER.search(sentence)]


def stalled(reply: str, earlier: Sequence[str]) -> bool:
    """Returns True for a reply without progress.

    It refuses at its beginning, spends at least half of its words on questions, or has under a fifth new words.
    """
    if REFUSAL.search(reply[:REFUSES_WITHIN]):
        return True
    reply_words = words(FENCE.sub(" ", reply))
    if sum(len(words(sentence)) for sentence in questions(reply)) * 2 >= max(1, len(reply_words)):
        return True
    content, earlier_words = content_words(reply), content_words(" ".join(earlier))
    return bool(earlier) and (not content or len(content - earlier_words) * 5 < len(content))


def content_words(text: str) -> set[str]:
    return {word for word in map(str.lower, words(text)) if word not in COMMON}
