"""The nineteen features of the User-Sim Index, per conversation (arXiv 2603.11245; defined by its public scorer).

The grouping is the scorer's 7 / 4 / 5 / 3, not the 8 / 3 / 5 / 3 of PPol nor the four scalars of NeMo UserSim.
Words are separated by white space; rates are shares of the user turns. Two names mislead: `formality_rate` looks
only for dashes, and `id_density` counts every word of six letters or more, as published.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, pstdev

from eval.papers.user_sim_index.phrases import ACKNOWLEDGEMENTS, kinds

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "D1": (
        "politeness_rate",
        "short_msg_rate",
        "formality_rate",
        "ack_only_rate",
        "verbosity_cv",
        "repeat_rate",
        "id_confuse_rate",
    ),
    "D2": ("info_frontload", "id_density", "user_words_per_turn", "opening_words"),
    "D3": ("uncertainty_rate", "certainty_rate", "pushback_q_rate", "clarify_q_rate", "info_q_rate"),
    "D4": ("emotion_rate", "accusation_rate", "pivot_rate"),
}
DIMENSION_NAMES = {
    "D1": "conversation style",
    "D2": "information",
    "D3": "clarification",
    "D4": "reaction",
}
FEATURES = tuple(key for keys in DIMENSIONS.values() for key in keys)
SHORT_WORDS = 3
TRIGRAM_REPEATS = 10
"""A trigram must occur more often than this."""
DASHES = "—–"  # noqa: RUF001 - em and en dash are what is looked for
TOKEN = re.compile(r"\w+")
ADDRESS = re.compile(r"\w+@\w+\.\w+")
LONG = re.compile(r"[a-z0-9]{6,}")
NUMBERED = re.compile(r"\w+_\w+_\d{3,}")
FIVE_DIGITS = re.compile(r"\d{5}")
PAYMENT = re.compile(r"(?:gift_card|credit_card|paypal)_\w+")


def features(texts: Sequence[str]) -> dict[str, float]:
    """Returns the features of one conversation's user turns, in order; at least one turn is needed."""
    lower, words = [text.lower() for text in texts], [len(text.split()) for text in texts]
    kinds_by_turn = [kinds(text) for text in lower]

    def rate(name: str) -> float:
        return fmean(name in turn for turn in kinds_by_turn)

    return {
        "politeness_rate": rate("polite"),
        "short_msg_rate": fmean(count <= SHORT_WORDS for count in words),
        "formality_rate": fmean(any(dash in text for dash in DASHES) for text in texts),
        "ack_only_rate": fmean(is_acknowledgement(text) for text in lower),
        "verbosity_cv": pstdev(words) / fmean(words) if sum(words) else 0.0,
        "repeat_rate": float(_repeats(lower)),
        "id_confuse_rate": float(any("agent" in turn for turn in kinds_by_turn)),
        "info_frontload": sum(words[:2]) / sum(words) if sum(words) else 0.0,
        "id_density": fmean(identifiers(text) for text in lower),
        "user_words_per_turn": fmean(words),
        "opening_words": float(words[0]),
        "uncertainty_rate": rate("uncertain"),
        "certainty_rate": rate("certain"),
        **_questions(kinds_by_turn),
        "emotion_rate": rate("emotion"),
        "accusation_rate": rate("accuse"),
        "pivot_rate": rate("pivot"),
    }


def is_acknowledgement(text: str) -> bool:
    """Tests whether the whole lower-case turn is one acknowledgement of the list, apart from marks after it."""
    return " ".join(text.rstrip(" \t\n!.,-").split()) in ACKNOWLEDGEMENTS


def identifiers(text: str) -> int:
    """Counts the tokens of a lower-case turn that look like an identifier (see `_is_identifier`); an address counts
    once."""
    without_addresses = ADDRESS.sub(" ", text)
    return len(ADDRESS.findall(text)) + sum(map(_is_identifier, TOKEN.findall(without_addresses)))


def _is_identifier(token: str) -> bool:
    """Tests for six or more plain letters and digits, five digits in a row, a_b_123, or a method of payment."""
    return bool(
        LONG.fullmatch(token)
        or FIVE_DIGITS.search(token)
        or NUMBERED.fullmatch(token)
        or PAYMENT.fullmatch(token)
    )


def _questions(kinds_by_turn: Sequence[frozenset[str]]) -> dict[str, float]:
    """Returns question rates. A turn counts once: as pushback, else as clarification, else as a question for
    information."""
    order = {"pushback": "pushback_q_rate", "clarify": "clarify_q_rate", "ask": "info_q_rate"}
    first = Counter(next((name for name in order if name in turn), None) for turn in kinds_by_turn)
    return {feature: first[name] / len(kinds_by_turn) for name, feature in order.items()}


def _repeats(lower: Sequence[str]) -> bool:
    """Tests whether three words in a row of some turn occur more than ten times in the conversation."""
    trigrams = Counter(
        tuple(words[i : i + 3]) for words in map(str.split, lower) for i in range(len(words) - 2)
    )
    return any(count > TRIGRAM_REPEATS for count in trigrams.values())
