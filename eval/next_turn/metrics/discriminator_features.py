"""Feature families of the discriminators: family A (lexical) and family B (sentence embeddings).

Each family maps a prefix and a text to a feature row; the two families share no feature and no encoder. Family A may
be tuned against. Family B runs only when a certificate or an aim is measured (`eval.next_turn.metrics.family_b_log`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]
from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

from eval.fidelity.metrics.texts.lexical import REMEMBERED, stems
from eval.next_turn.metrics.text_vectors import TextVectors
from eval.next_turn.prefixes import Prefix
from usersim.stats.estimates import Floats, rng_for
from usersim.text.code_blocks import split
from usersim.text.embeddings import EmbedModel, default_model
from usersim.text.spelling import word_set
from usersim.text.style import (
    count_words,
    ends_punctuated,
    is_polite,
    is_question,
    marks_of,
    starts_lower,
    words,
)
from usersim.types import Goal

Family = Literal["a", "b"]
Rows = Any
"""Features (P, D), one row per prefix: a sparse matrix or an array."""
CHARACTERS = 2_000
"""Number of characters at the beginning of a text that the lexical family, word runs and overlaps read."""
HASHED = 2**18
SMOOTH = 400
"""Number of random Fourier features (Rahimi & Recht 2007); the linear score is then non-linear in the form features."""


class Representation(Protocol):
    """Feature map of one discriminator family."""

    family: Family
    ridge: float

    def features(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> Rows:
        """Returns one row per prefix, which depends on that prefix and text only."""
        ...


class Lexical:
    """Family A: n-grams of characters, words and word classes; overlap with goal, answer and own turns; form."""

    family: Family = "a"
    ridge = 3.0

    def features(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> Rows:
        cut = [text[:CHARACTERS] for text in texts]
        forms = np.array([_form(p, text) for p, text in zip(prefixes, cut, strict=True)])
        return hstack(
            [
                0.6 * ngram_rows(cut),
                csr_matrix(_smooth(forms, np.array(FORM_WIDTHS))),
            ],
            format="csr",
        )


class Embedded:
    """Family B: sentence vectors of the turn, their products with those of answer, goal and own turns; cosines."""

    family: Family = "b"
    ridge = 10.0

    def __init__(self, model: EmbedModel | TextVectors | None = None) -> None:
        """`model`: None for that of `usersim.text.embeddings`, loaded at first use."""
        self._model = model
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def features(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> Rows:
        own = [[turn.text for turn in p.history if turn.role == "user"] for p in prefixes]
        answers = [[turn.text for turn in p.history if turn.role == "assistant"] for p in prefixes]
        goals = [[goal_text(p.goal)] if p.goal else [] for p in prefixes]
        self._read(text for part in (*own, *answers, *goals, texts) for text in part)
        turn_PD = self._means([[text] for text in texts])
        contexts = [self._means(part) for part in ([a[-1:] for a in answers], goals, own)]
        others = [
            self._means([part[:1] for part in own]),
            self._means([part[-1:] for part in own]),
            self._means([part[:-1] for part in answers]),
        ]
        cosines = [(turn_PD * other_PD).sum(1) for other_PD in contexts + others]
        cosines.append(np.array([self._nearest(turn, part) for turn, part in zip(turn_PD, own, strict=True)]))
        strata = np.array([_stratum(prefix) for prefix in prefixes])
        widths = np.array([0.25] * len(cosines) + [1.0] * strata.shape[1])
        # The product of two unit vectors has entries of about 1/D: brought to the size of the vectors themselves.
        scale = 0.5 * np.sqrt(turn_PD.shape[1])
        products = [scale * turn_PD * context_PD for context_PD in contexts]
        return np.hstack([turn_PD, *products, _smooth(np.column_stack([*cosines, strata]), widths)])

    def _read(self, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._model = self._model or default_model()
            self._vectors.update(zip(new, self._model.embed(new), strict=True))

    def _means(self, groups: Sequence[Sequence[str]]) -> Floats:
        """Mean vector of each group, of length 1; zeros for an empty group."""
        width = len(next(iter(self._vectors.values())))
        rows = [
            np.mean([self._vectors[text] for text in group], axis=0) if group else np.zeros(width)
            for group in groups
        ]
        unit: Floats = normalize(np.asarray(rows, dtype=np.float64))
        return unit

    def _nearest(self, turn_D: Floats, own: Sequence[str]) -> float:
        return max((float(turn_D @ self._vectors[text]) for text in own), default=0.0)


def _smooth(points_PK: Floats, widths_K: Floats) -> Floats:
    """Features (P, SMOOTH) whose inner products approximate a Gaussian kernel of the points over `widths_K`."""
    rng = rng_for(0, "fourier features")
    phases_PS = (points_PK / widths_K) @ rng.normal(size=(len(widths_K), SMOOTH)) * 0.5
    smooth: Floats = np.sqrt(2 / SMOOTH) * np.cos(phases_PS + rng.uniform(0, 2 * np.pi, SMOOTH))
    return smooth


def ngram_rows(texts: Sequence[str]) -> Any:
    """Returns sparse rows (P, D): n-grams of characters, words and word classes, each kind scaled to length 1."""
    kinds = (
        {"analyzer": "char_wb", "ngram_range": (1, 4)},
        {"analyzer": _word_ngrams},
        {"analyzer": _class_ngrams},
    )
    return hstack([_counts([text[:CHARACTERS] for text in texts], **kind) for kind in kinds], format="csr")


def _counts(texts: Sequence[str], **options: Any) -> Any:
    """Unit-length rows of 1 + log counts of hashed n-grams."""
    vectoriser = HashingVectorizer(
        n_features=HASHED, alternate_sign=False, norm=None, lowercase=False, **options
    )
    counts = vectoriser.transform(list(texts))
    counts.data = 1 + np.log(counts.data)
    return normalize(counts)


def _word_ngrams(text: str) -> list[str]:
    tokens = [word.lower() for word in words(text)]
    return [*tokens, *(" ".join(pair) for pair in pairwise(tokens))]


FUNCTION_WORDS = word_set(
    "a about after all also am an and any are as at be because been before but by can could did do does don't "
    "each for from get had has have he her his how i if in into is it its just let like make many may me more "
    "most much my need no not now of on one only or other our out please she should so some than that the their "
    "them then there these they this those to too two up us use using very want was we were what when where "
    "which who why will with would write give you your"
)
CLASSES = ("ing", "ed", "ly", "tion", "ment", "s", "er", "al", "ive", "y")
TOKEN = re.compile(r"\d[\d.,]*|[^\W\d_]+(?:['’-][^\W\d_]+)*|[.,;:!?()\"\n]")  # noqa: RUF001


@lru_cache(maxsize=REMEMBERED)
def _word_class(token: str) -> str:
    """Function words and marks themselves; for other words the ending and the capitalisation."""
    lower = token.lower()
    if lower in FUNCTION_WORDS or not lower[0].isalnum():
        return lower
    if lower[0].isdigit():
        return "0"
    ending = next((e for e in CLASSES if lower.endswith(e) and len(lower) > len(e) + 2), "")
    return f"{'X' if token[0].isupper() else 'x'}-{ending}"


def _class_ngrams(text: str) -> list[str]:
    """N-grams of word classes: word order without the subject matter."""
    classes = ["^", *map(_word_class, TOKEN.findall(text)), "$"]
    return [" ".join(classes[i : i + n]) for n in (2, 3, 4) for i in range(len(classes) - n + 1)]


FORM_WIDTHS = (
    *(1.0, 1.0, 1.0, 1.0),
    *(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
    *(0.7, 0.7, 0.7, 0.5, 0.5, 0.5),
    *(1.0, 1.0, 1.0, 1.0, 0.2, 0.3, 0.3, 0.7, 0.5, 0.3, 0.3, 0.5),
    *(1.0, 1.0, 1.0),
)
"""Smallest relevant change of each number of `_form`."""


def _form(prefix: Prefix, text: str) -> list[float]:
    own = [turn.text[:CHARACTERS] for turn in prefix.history if turn.role == "user"]
    answers = [turn.text for turn in prefix.history if turn.role == "assistant"]
    goal, answer = goal_text(prefix.goal) if prefix.goal else "", (answers or [""])[-1][:CHARACTERS]
    length, content = count_words(text), stems(text)
    parts = [
        stems(goal),
        stems(answer),
        frozenset[str]().union(*(stems(a[:CHARACTERS]) for a in answers[:-1])),
        frozenset[str]().union(*map(stems, own)),
    ]
    before = parts[1] | parts[2] | parts[3]
    runs = [longest_run(text, [other]) for other in (goal, answer)] + [longest_run(text, own)]
    # Only words of goals that nothing before has said: the others stand there for every writer.
    new_goal_words = parts[0] - before
    marks = marks_of(split(text).prose)
    counted = max(1, length)
    return [
        np.log1p(length),
        np.log1p(length) - np.log1p(count_words(answer)) if answers else 0.0,
        np.log1p(length) - np.log1p(float(np.mean([count_words(t) for t in own]))) if own else 0.0,
        np.log1p(length) - np.log1p(count_words(goal)) if goal else 0.0,
        *(_share(content & part, content) for part in parts),
        _share(content - before - parts[0], content),
        _share(content & new_goal_words, new_goal_words),
        _share(content & new_goal_words, content),
        *(np.log1p(run) for run in runs),
        *(run / counted for run in runs),
        float(starts_lower(text) or 0),
        float(ends_punctuated(text)),
        float(is_question(text)),
        float(is_polite(text)),
        marks.count("t") / counted,
        sum(c.isupper() for c in text) / max(1, len(text)) * 3,
        sum(c.isdigit() for c in text) / max(1, len(text)) * 3,
        np.log1p(text.count("\n")),
        len(set(map(str.lower, words(text)))) / counted,
        text.count("!") / counted * 3,
        text.count(",") / counted * 3,
        float(any(text.strip().lower() == t.strip().lower() for t in own)),
        *_stratum(prefix),
    ]


def _stratum(prefix: Prefix) -> list[float]:
    return [float(prefix.position == 1), float(prefix.position == 2), float(prefix.position > 2)]


def _share(part: frozenset[str], whole: frozenset[str]) -> float:
    return len(part) / len(whole) if whole else 0.0


def longest_run(text: str, others: Sequence[str]) -> int:
    """Returns the length in words of the longest run of `text` that occurs in one of the others, ignoring case."""
    tokens = lower_words(text)
    longest = 0
    for other in others:
        longest = max(longest, _longest_common_run(tokens, lower_words(other)))
    return longest


@lru_cache(maxsize=REMEMBERED)
def lower_words(text: str) -> tuple[str, ...]:
    """Returns the words of a text in lower case."""
    return tuple(map(str.lower, words(text)))


def _longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    places: dict[str, list[int]] = {}
    for index, word in enumerate(second):
        places.setdefault(word, []).append(index)
    longest, ending = 0, dict[int, int]()
    for word in first:
        ending = {index: ending.get(index - 1, 0) + 1 for index in places.get(word, ())}
        longest = max(longest, max(ending.values(), default=0))
    return longest


def goal_text(goal: Goal) -> str:
    """Returns the summary and the facets of a goal in one line."""
    return ". ".join([goal.summary, *(facet.text for facet in goal.facets)])
