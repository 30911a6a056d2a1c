"""Planted users that write gibberish: word and character trigrams, and shuffled words."""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.planted_material import TOKEN, Material, rewrite_turns
from eval.next_turn.turns import SimulatedTurns
from usersim.errors import DataError

SHUFFLED_SOME = 0.3
MODEL_WORDS, MODEL_CHARACTERS = 400, 2000
"""Characters of a turn that the gibberish models read; pasted documents would dominate them."""


def gibberish_words(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Word trigrams of people of other folds, as many words as the person's turn has."""
    models = _by_fold(material, seed, lambda text: text.split()[:MODEL_WORDS])
    fold_of = material.fold_of(seed)

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        return " ".join(models[fold_of[prefix.cluster]].draw(len((prefix.text or "").split()), rng))

    return rewrite_turns("gibberish_words", prefixes, seed, rewrite)


def gibberish_characters(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Character trigrams of people of other folds, as many characters as the person's turn has."""
    models = _by_fold(material, seed, lambda text: list(" ".join(text.split())[:MODEL_CHARACTERS]))
    fold_of = material.fold_of(seed)

    def rewrite(prefix: Prefix, rng: np.random.Generator) -> str:
        text = "".join(models[fold_of[prefix.cluster]].draw(len((prefix.text or "").strip()), rng)).strip()
        return text or "e"

    return rewrite_turns("gibberish_characters", prefixes, seed, rewrite)


def shuffled_words(
    prefixes: Sequence[Prefix], material: Material, seed: int, share: float = 1.0
) -> SimulatedTurns:
    """Turns with a share of their words permuted; white space stays in place."""
    name = "shuffled_words" if share >= 1 else "shuffled_some"
    return rewrite_turns(name, prefixes, seed, lambda prefix, rng: _shuffled(prefix.text or "", share, rng))


def shuffled_some(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    return shuffled_words(prefixes, material, seed, SHUFFLED_SOME)


@dataclass(frozen=True)
class _Trigrams:
    """Counts of the unit that follows two units; None is before the first."""

    following: dict[tuple[str | None, str | None], tuple[list[str], list[int]]] = field(repr=False)

    @classmethod
    def of(cls, sequences: Iterable[Sequence[str]]) -> _Trigrams:
        counts: dict[tuple[str | None, str | None], Counter[str]] = defaultdict(Counter)
        for units in sequences:
            first: str | None = None
            second: str | None = None
            for unit in units:
                counts[first, second][unit] += 1
                first, second = second, unit
        if not counts:
            raise DataError("no other person's turn to make gibberish of")
        return cls({pair: (list(c), list(accumulate(c.values()))) for pair, c in counts.items()})

    def draw(self, length: int, rng: np.random.Generator) -> list[str]:
        """Samples `length` units; a turn that ends early starts again."""
        units: list[str] = []
        first: str | None = None
        second: str | None = None
        for chance in rng.random(max(length, 1)):
            if (first, second) not in self.following:
                first = second = None
            names, cumulative = self.following[first, second]
            unit = names[bisect(cumulative, float(chance) * cumulative[-1])]
            units.append(unit)
            first, second = second, unit
        return units


def _by_fold(material: Material, seed: int, units: Callable[[str], list[str]]) -> dict[int, _Trigrams]:
    fold_of = material.fold_of(seed)
    return {
        fold: _Trigrams.of(
            units(text)
            for chat in material.chats.values()
            if fold_of[chat.cluster] != fold
            for text in chat.turns
        )
        for fold in sorted(set(fold_of.values()))
    }


def _shuffled(text: str, share: float, rng: np.random.Generator) -> str:
    tokens = list(TOKEN.finditer(text))
    if len(tokens) < 2:
        return text
    size = len(tokens) if share >= 1 else max(2, round(share * len(tokens)))
    at = rng.permutation(len(tokens))[:size]
    # Drawn in random order and passed on in a circle: none keeps its place.
    words = [token[0] for token in tokens]
    for here, there in zip(at, np.roll(at, 1), strict=True):
        words[here] = tokens[there][0]
    pieces, end = [], 0
    for token, word in zip(tokens, words, strict=True):
        pieces += [text[end : token.start()], word]
        end = token.end()
    return "".join(pieces) + text[end:]
