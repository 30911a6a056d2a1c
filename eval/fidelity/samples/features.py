"""Features of user turns, from `usersim.text.style`. Their bins are fixed before any simulator is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, pstdev

import numpy as np

from usersim.stats.estimates import Floats
from usersim.text import style
from usersim.types import Conversation

WORD_BINS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, np.inf)
TURN_BINS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 9.0, 13.0, 21.0, np.inf)
CV_BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, np.inf)
FLAG_BINS = (0.0, 0.5, np.inf)


@dataclass(frozen=True)
class Feature:
    """One attribute of how a person writes."""

    key: str
    label: str
    values: Callable[[Sequence[str]], list[float]] = field(repr=False)
    """Values of a conversation's user turns: one a turn, or one in all; none where the feature is undefined."""
    bins: tuple[float, ...] = FLAG_BINS
    """Edges of the histogram, closed on the left."""
    log: bool = False
    """Distances are taken on log2(1 + value): one step is a doubling."""

    @property
    def is_flag(self) -> bool:
        return self.bins == FLAG_BINS

    def scaled(self, values: Floats) -> Floats:
        return np.log2(1 + values) if self.log else values

    def bin_labels(self) -> list[str]:
        if self.is_flag:
            return ["no", "yes"]
        whole = self.bins != CV_BINS
        return [_bin_label(low, high, whole) for low, high in zip(self.bins, self.bins[1:], strict=False)]


def _bin_label(low: float, high: float, whole: bool) -> str:
    if high == np.inf:
        return f"{low:g}+"
    if whole:
        return f"{low:g}" if high - low == 1 else f"{low:g}–{high - 1:g}"  # noqa: RUF001
    return f"{low:g}–{high:g}"  # noqa: RUF001


def _flag(test: Callable[[str], bool | None]) -> Callable[[Sequence[str]], list[float]]:
    return lambda texts: [float(hit) for hit in map(test, texts) if hit is not None]


def _counts(texts: Sequence[str]) -> list[float]:
    return [float(len(style.words(text))) for text in texts]


def _variation(texts: Sequence[str]) -> list[float]:
    counts = _counts(texts)
    mean = fmean(counts)
    return [pstdev(counts) / mean] if len(counts) > 1 and mean > 0 else []


FEATURES: tuple[Feature, ...] = (
    Feature("user_turns", "user turns per conversation", lambda t: [float(len(t))], TURN_BINS, log=True),
    Feature("opening_words", "words of the opening", lambda t: _counts(t[:1]), WORD_BINS, log=True),
    Feature("words_per_turn", "words per turn", _counts, WORD_BINS, log=True),
    Feature("word_variation", "variation of words per turn (SD / mean)", _variation, CV_BINS),
    Feature("short_turns", "turns of at most 3 words", _flag(lambda t: len(style.words(t)) <= 3)),
    Feature("lowercase_starts", "turns starting in lower case", _flag(style.starts_lower)),
    Feature("questions", "turns with a question mark", _flag(style.is_question)),
    Feature("politeness", "turns with please, thanks, sorry", _flag(style.is_polite)),
    Feature("end_punctuation", "turns ending in punctuation", _flag(style.ends_punctuated)),
    Feature("line_breaks", "turns with a line break", _flag(lambda t: "\n" in t.strip())),
    Feature("exclamations", "turns with an exclamation mark", _flag(lambda t: "!" in t)),
)


def user_texts(conversation: Conversation) -> list[str]:
    return [turn.text for turn in conversation.turns if turn.role == "user"]


@dataclass(frozen=True)
class Sample:
    """Conversations with their features computed once; every conversation has a user turn."""

    conversations: tuple[Conversation, ...]
    values: tuple[dict[str, list[float]], ...]

    @classmethod
    def of(cls, conversations: Sequence[Conversation]) -> Sample:
        rows = [
            {feature.key: feature.values(texts) for feature in FEATURES}
            for texts in map(user_texts, conversations)
        ]
        return cls(tuple(conversations), tuple(rows))

    def __len__(self) -> int:
        return len(self.conversations)

    def take(self, indices: Sequence[int] | np.ndarray) -> Sample:
        return Sample(tuple(self.conversations[i] for i in indices), tuple(self.values[i] for i in indices))

    def flat(self, feature: Feature) -> tuple[Floats, np.ndarray, Floats]:
        """Returns (values, owning conversation, mass); a conversation's turns share a mass of one."""
        rows = [row[feature.key] for row in self.values]
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        values = np.array([value for row in rows for value in row], dtype=np.float64)
        mass = np.array([1 / len(row) for row in rows for _ in row], dtype=np.float64)
        return values, owner, mass

    @cached_property
    def vectors_NF(self) -> Floats:
        """One row per conversation: the mean of every feature on its scale; NaN where the feature is undefined."""
        columns = [
            [
                float(feature.scaled(np.array(row[feature.key])).mean()) if row[feature.key] else np.nan
                for feature in FEATURES
            ]
            for row in self.values
        ]
        return np.array(columns, dtype=np.float64)


@dataclass(frozen=True)
class FeatureScale:
    """Mean and spread of the human conversations, for filling and standardising feature vectors."""

    mean_F: Floats
    spread_F: Floats

    @classmethod
    def of(cls, pool: Sample) -> FeatureScale:
        is_known = ~np.isnan(pool.vectors_NF)
        count = np.maximum(is_known.sum(0), 1)
        mean = np.where(is_known, pool.vectors_NF, 0).sum(0) / count
        spread = np.sqrt((np.where(is_known, pool.vectors_NF - mean, 0) ** 2).sum(0) / count)
        return cls(mean, np.maximum(spread, 1e-3))

    def standardise(self, sample: Sample) -> Floats:
        """Returns standardised vectors; an undefined feature counts as the human average."""
        vectors = sample.vectors_NF
        return (np.where(np.isnan(vectors), self.mean_F, vectors) - self.mean_F) / self.spread_F
