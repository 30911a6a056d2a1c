"""Which language the person writes, from their own turns."""

from __future__ import annotations

from functools import cache
from typing import Any

from data_prep.chats import RawChat
from data_prep.stages import Rejected

TURN_CHARS = 400
"""Read per turn: people say something, then paste, and pastes are often in another language."""
CHARS = 3000
SHORT_LETTERS = 80
"""Below this the classifier guesses: plain ASCII that it is unsure about counts as English."""
SURE = 0.5
TAKEN_FOR_ENGLISH = "pcm"
"""The classifier's label Nigerian Pidgin: in chats with assistants it is nearly always terse English."""


@cache
def _identifier() -> Any:
    from py3langid.langid import (  # type: ignore[import-untyped]
        MODEL_FILE,
        LanguageIdentifier,
    )

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def detect(texts: tuple[str, ...]) -> str:
    """ISO 639 code of the texts taken together."""
    sample = "\n".join(text[:TURN_CHARS] for text in texts)[:CHARS]
    code, probability = _identifier().classify(sample)
    letters = sum(character.isalpha() for character in sample)
    unsure = letters == 0 or (letters < SHORT_LETTERS and probability < SURE)
    if sample.isascii() and (unsure or code == TAKEN_FOR_ENGLISH):
        return "en"
    return str(code)


def name_language(chat: RawChat) -> RawChat:
    """Detects where the corpus does not say, and the code where it only says "not English"."""
    if chat.language == "en":
        return chat
    code = detect(chat.user_texts)
    if chat.language == "other" and code == "en":
        code = "other"
    return chat.model_copy(update={"language": code})


def english_only(chat: RawChat) -> RawChat | Rejected:
    """For a chat whose language is named. A corpus that says "not English" is believed."""
    return chat if chat.language == "en" else Rejected("not English")
