"""Fluency of turns: bits per character under a language model in context, and under an n-gram model of people's turns.

It is read two-sided: text that is too predictable needs fewer bits than people's. The n-gram model sees only the order
of neighbouring words; gibberish cut from its training text is smoother to it than people's turns.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from eval.next_turn.metrics.coherence import Coherence
from eval.next_turn.metrics.values import MetricSpec, TurnMetric, Values
from eval.next_turn.prefixes import Prefix
from usersim.errors import DataError
from usersim.stats.estimates import rng_for

TOKENS = re.compile(r" ?\w{1,32}|[^\w\s]|\s")
"""Tokens: words with the space before them, marks, white space."""
TOKEN_ORDER = 2
"""Order of the word model. On dev, bigrams told shuffled turns from people's better than trigrams or characters did."""
SPELLING_ORDER = 6
SCORED_CHARACTERS = 512
"""Maximum scored characters of a turn, about the same length as the language model's limit."""
FITTED_CHARACTERS = 2_000_000
"""Maximum characters of training text; more costs memory and changes little."""
SPELLINGS = 50_000
"""Number of tokens whose spelling probability is cached."""
ALPHABET = 1_114_112
"""Number of Unicode characters: an unseen one has this probability instead of 0."""
FOLDS = 5


class WittenBell:
    """Interpolated n-gram model of sequences (Witten and Bell, 1991).

    p(x | h) = (c(h x) + t(h) p(x | h without its first)) / (c(h) + t(h)); t(h): number of distinct successors of h.

    Args:
        sequences: Training sequences.
        order: Length of the longest n-gram.
        base: Probability of an element without counts.
    """

    def __init__(
        self, sequences: Iterable[Sequence[Hashable]], order: int, base: Callable[[Any], float]
    ) -> None:
        self.order, self.base = order, base
        self._counts: Counter[tuple[Hashable, ...]] = Counter()
        for sequence in sequences:
            padded = (*(None for _ in range(order - 1)), *sequence)
            for length in range(1, order + 1):
                # Every n-gram that ends in the sequence proper.
                self._counts.update(zip(*(padded[order - length + i :] for i in range(length)), strict=False))
        self._totals: Counter[tuple[Hashable, ...]] = Counter()
        self._types: Counter[tuple[Hashable, ...]] = Counter()
        for gram, count in self._counts.items():
            self._totals[gram[:-1]] += count
            self._types[gram[:-1]] += 1

    def bits(self, sequence: Sequence[Hashable]) -> float:
        """Returns -log2 p of a whole sequence."""
        padded = (*(None for _ in range(self.order - 1)), *sequence)
        return -sum(math.log2(self._probability(padded[i : i + self.order])) for i in range(len(sequence)))

    def _probability(self, gram: tuple[Hashable, ...]) -> float:
        """Probability of the last element after the others."""
        probability = self.base(gram[-1])
        for start in range(len(gram) - 1, -1, -1):
            types = self._types[gram[start:-1]]
            if not types:
                break
            count = self._counts[gram[start:]]
            probability = (count + types * probability) / (self._totals[gram[start:-1]] + types)
        return probability


class TurnModel:
    """Bigram model of words and marks, interpolated with a character model that spells unknown words."""

    def __init__(self, texts: Iterable[str]) -> None:
        sequences = [TOKENS.findall(text) for text in _portion(texts)]
        vocabulary = sorted({token for sequence in sequences for token in sequence})
        spelling = WittenBell(
            ((*token, None) for token in vocabulary), SPELLING_ORDER, lambda _: 1 / ALPHABET
        )
        spelling_probability = lru_cache(SPELLINGS)(lambda token: 2.0 ** -spelling.bits((*token, None)))
        self._words = WittenBell(sequences, TOKEN_ORDER, spelling_probability)

    def bits(self, text: str) -> float:
        return self._words.bits(TOKENS.findall(text))


class LanguageModelFluency(TurnMetric):
    """`fluency.lm`: bits per character of a turn in its own history, Σ bits / Σ characters of the scored beginnings.

    A turn without history follows the bare header of a user message.

    Args:
        coherence: Metric with the language model, the contexts and the scored prefixes.
    """

    def __init__(self, coherence: Coherence) -> None:
        self.coherence = coherence

    @property
    def specs(self) -> Sequence[MetricSpec]:
        if self.coherence.scorer is None:
            return []
        return [_spec("lm", "bits a character in context")]

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        scorer, scored = self.coherence.scorer, self.coherence.contexts.scored
        if scorer is None:
            return {}
        places = [place for place, prefix in enumerate(prefixes) if prefix.id in scored]
        scores = scorer.score([(self.coherence.own_context(prefixes[i]), texts[i]) for i in places])
        bits_P, characters_P = np.zeros(len(prefixes)), np.zeros(len(prefixes))
        bits_P[places] = [score.nats / math.log(2) for score in scores]
        characters_P[places] = [score.characters for score in scores]
        return {"fluency.lm": Values(bits_P, characters_P)}


class NgramFluency(TurnMetric):
    """`fluency.ngram`: bits per character of a turn's beginning under `TurnModel`, Σ bits / Σ characters.

    Build it with `fitted` or `cross_fitted`.

    Args:
        models: One model, or one per fold.
        folds: Index of the model by cluster; 0 for a cluster that is missing.
    """

    def __init__(self, models: Sequence[TurnModel], folds: Mapping[str, int] | None = None) -> None:
        self._models, self._folds = models, folds or {}

    @classmethod
    def fitted(cls, texts: Iterable[str]) -> NgramFluency:
        """Fits one model on people's turns of other conversations, such as a training file, which is read once."""
        return cls([TurnModel(texts)])

    @classmethod
    def cross_fitted(cls, prefixes: Sequence[Prefix], seed: int) -> NgramFluency:
        """Fits one model per fold on people's own turns; no turn is scored by a model that saw its person.

        Raises:
            DataError: The prefixes are of fewer than two people.
        """
        clusters = sorted({prefix.cluster for prefix in prefixes})
        if len(clusters) < 2:
            raise DataError("fluency.ngram needs turns of at least two people; add training conversations")
        number = min(FOLDS, len(clusters))
        order = rng_for(seed, "fluency folds").permutation(len(clusters))
        folds = {clusters[index]: place % number for place, index in enumerate(order)}
        texts = [(prefix.text, folds[prefix.cluster]) for prefix in prefixes if prefix.text is not None]
        return cls([TurnModel(text for text, own in texts if own != fold) for fold in range(number)], folds)

    @property
    def specs(self) -> Sequence[MetricSpec]:
        return [_spec("ngram", "bits a character by words, pairs of words and spelling")]

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        heads = [text.strip()[:SCORED_CHARACTERS] for text in texts]
        bits = [
            self._models[self._folds.get(prefix.cluster, 0)].bits(head)
            for prefix, head in zip(prefixes, heads, strict=True)
        ]
        characters = [len(head) for head in heads]
        return {"fluency.ngram": Values(np.array(bits, np.float64), np.array(characters, np.float64))}


def _spec(scorer: str, label: str) -> MetricSpec:
    return MetricSpec(
        key=f"fluency.{scorer}",
        group="fluency",
        label=label,
        unit="bits a character",
        is_ratio=True,
        scorer=scorer,
    )


def _portion(texts: Iterable[str]) -> Iterator[str]:
    """Beginnings of texts, up to `FITTED_CHARACTERS` together."""
    room = FITTED_CHARACTERS
    for text in texts:
        if room <= 0:
            return
        head = text.strip()[: 4 * SCORED_CHARACTERS]
        yield head
        room -= len(head)
