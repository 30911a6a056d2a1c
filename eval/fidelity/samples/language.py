"""Rough language detection without a model, enough to see that two sets do not match.

The script decides where it is distinctive (Cyrillic, Han, kana, Hangul, Arabic …); for Latin script the most frequent
function words decide. Short or ambiguous text has no language, which is not the same as another language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

LATIN = {
    "en": "the and is of to in that it you for with what how can are this please my not be do on",
    "fr": "le la les des est et un une que pour dans ce il qui je vous sur pas avec plus au du",
    "es": "el la los las de que en un una es por para con como se mi del al qué",
    "de": "der die das und ist nicht ein eine zu mit ich auf für dem den wie von sich auch bitte",
    "it": "il di che un una per con non sono come del della gli è nel più anche questo",
    "pt": "os que um uma para com não em da se por como meu você mais isso esta mas foi",
    "nl": "het een en van dat ik niet op te met voor zijn je er aan maar hoe wat kan",
    "tr": "bir ve bu için ne ile çok bana olarak var daha gibi ben değil",
    "id": "yang dan di ini itu dengan untuk dari tidak saya apa ada ke adalah bisa",
    "vi": "là và của có không một những cho các được với trong này tôi để",
    "pl": "nie na się jest że jak czy dla od przez oraz są tak mnie może",
}
WORDS = {language: frozenset(listed.split()) for language, listed in LATIN.items()}
SCRIPTS = {
    "ja": re.compile(r"[\u3040-\u30ff]"),
    "ko": re.compile(r"[\uac00-\ud7af]"),
    "zh": re.compile(r"[\u4e00-\u9fff]"),
    "ru": re.compile(r"[\u0400-\u04ff]"),
    "ar": re.compile(r"[\u0600-\u06ff]"),
    "hi": re.compile(r"[\u0900-\u097f]"),
    "he": re.compile(r"[\u0590-\u05ff]"),
    "el": re.compile(r"[\u0370-\u03ff]"),
    "th": re.compile(r"[\u0e00-\u0e7f]"),
}
LETTER = re.compile(r"[^\W\d_]")
WORD = re.compile(r"[^\W\d_]+")
READ = 2000
"""Characters that are read."""
LEAST_WORDS = 3
"""Function words of a language that a decision needs."""


def language_of(texts: Sequence[str]) -> str | None:
    """Returns the ISO 639-1 code of the texts together; None where they are too short or ambiguous. Han without kana
    counts as Chinese, Cyrillic as Russian."""
    text = " ".join(texts)[:READ].lower()
    letters = len(LETTER.findall(text))
    for language, script in SCRIPTS.items():
        # Some Latin words stand in most texts; Japanese mixes kana with Han.
        threshold = 0.1 if language == "ja" else 0.3
        if letters and len(script.findall(text)) >= threshold * letters:
            return language
    words = WORD.findall(text)
    hits = Counter(
        {
            language: sum(word in function_words for word in words)
            for language, function_words in WORDS.items()
        }
    )
    (top_language, top_hits), (_, second_hits) = hits.most_common(2)
    return top_language if top_hits >= LEAST_WORDS and top_hits >= 1.5 * second_hits else None
