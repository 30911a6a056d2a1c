"""Discriminators between a simulator's next turns and people's, tested by two-alternative forced choice.

Each family maps a prefix and a text to a feature row; the two families share no feature and no encoder. Family A is
lexical and may be tuned against. Family B reads sentence embeddings. It runs only when a certificate or an aim is
measured (`eval.next_turn.metrics.family_b_log`).

The score is linear: ridge regression, fitted on the clusters of the training folds and applied to the rest. Paired
data are fitted on the difference of the two rows at a prefix (simulator minus person, target 1), so that features of
the prefix alone cancel. The fit is linear in the labels. So a permutation of the labels is refitted with one matrix
product; the tests here refit at every permutation and are exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve  # type: ignore[import-untyped]
from scipy.sparse import csr_matrix, hstack, issparse  # type: ignore[import-untyped]
from scipy.stats import rankdata  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]
from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

from eval.fidelity.metrics.texts.folds import grouped_folds
from eval.fidelity.metrics.texts.lexical import REMEMBERED, stems
from eval.next_turn.metrics.text_vectors import TextVectors
from eval.next_turn.metrics.values import (
    CHUNK,
    PERMUTATIONS,
    MetricSpec,
    Positions,
    Values,
    at_positions,
    cluster_weights,
)
from eval.next_turn.prefixes import Prefix
from usersim.errors import DataError
from usersim.stats.estimates import Floats, Ints, rng_for
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
FOLDS = 5
STRATA: tuple[Positions, ...] = ("1", "2", "3+", "all")
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


@dataclass(frozen=True)
class ToldApart:
    """Two-alternative forced choice at P prefixes, with the matrix that refits it under swapped labels."""

    choices_P: Floats
    """1 if the simulator's turn scored above the person's, 1/2 at a tie, else 0."""
    smoother_PP: Floats
    """Held-out score of pair i under labels s (±1 per pair): s_i · (smoother @ s)_i."""
    owner_P: Ints
    """Cluster index of each prefix."""

    def values(self, family: Family, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        """Returns values by key, at turn 1, 2, 3+ and all."""
        everywhere = Values(self.choices_P, np.ones(len(self.choices_P)))
        return {f"told_apart.{family}.{at}": everywhere.at(at_positions(prefixes, at)) for at in STRATA}

    def p(
        self, mask_P: NDArray[np.bool_], rng: np.random.Generator, permutations: int = PERMUTATIONS
    ) -> float:
        """Two-sided permutation p of "simulator and person are exchangeable".

        Labels are swapped, whole clusters at a time, and the discriminator is refitted each time. Choices of one fold
        share a fit. So tests that treat them as independent (`p_against`) reject people against people at 11 to 16 %
        of splits instead of 5 %.

        Raises:
            ValueError: No prefix in the mask.
        """
        if not mask_P.any():
            raise ValueError("a forced choice at no prefix")
        defined_C = np.bincount(self.owner_P[mask_P], minlength=int(self.owner_P.max()) + 1)
        weight_P = cluster_weights(defined_C.astype(np.float64))[self.owner_P[mask_P]]
        weight_P = weight_P / weight_P.sum()
        observed = abs(float(weight_P @ self.choices_P[mask_P]) - 0.5)
        extreme, clusters = 0, int(self.owner_P.max()) + 1
        for start in range(0, permutations, CHUNK):
            size = min(CHUNK, permutations - start)
            signs_PR = (rng.integers(0, 2, size=(clusters, size)) * 2.0 - 1.0)[self.owner_P]
            scores_PR = signs_PR[mask_P] * (self.smoother_PP[mask_P] @ signs_PR)
            extreme += int((np.abs(weight_P @ _choices(scores_PR) - 0.5) >= observed - 1e-12).sum())
        return (1 + extreme) / (1 + permutations)


def told_apart_specs(family: Family) -> list[MetricSpec]:
    """Returns the specifications of a family's four shares; people have 0.5."""
    labels = {"1": "openings", "2": "second turns", "3+": "later turns", "all": "all turns"}
    return [
        MetricSpec(
            key=f"told_apart.{family}.{at}",
            group="indistinguishability",
            label=f"simulator's turn told from the person's, {labels[at]}, discriminator {family.upper()}",
            unit="share of pairs (0.5: not told apart)",
            is_share=True,
            positions=at,
        )
        for at in STRATA
    ]


def told_apart(
    simulated: Rows, people: Rows, clusters: Sequence[str], *, ridge: float, folds: int = FOLDS, seed: int = 0
) -> ToldApart:
    """Cross-fitted forced choice between a simulator's and a person's turn at the same prefixes.

    Args:
        simulated: Feature rows of the simulator's turns, one per prefix.
        people: Feature rows of the persons' turns at the same prefixes.

        clusters: Cluster of each prefix. No pair is scored by a fit that saw its cluster.
        ridge: `Representation.ridge`.

    Raises:
        DataError: Fewer than two clusters.
    """
    difference = simulated - people
    smoother = _smoother(_products(difference), _fold_of(clusters, folds, seed), ridge)
    owner: Ints = np.unique(np.asarray(clusters), return_inverse=True)[1]
    return ToldApart(_choices(smoother.sum(1)), smoother, owner)


class Unpaired:
    """Discriminator between two sets of turns at different prefixes; built once for many assignments to the sets.

    AUC: P(a turn of the first set scores above one of the second), over pairs of the same held-out fold. `rows` and
    `clusters` are those of all turns of both sets; a set has whole clusters.
    """

    def __init__(
        self, rows: Rows, clusters: Sequence[str], *, ridge: float, folds: int = FOLDS, seed: int = 0
    ) -> None:
        self._fold_N = _fold_of(clusters, folds, seed)
        self._smoother_NN = _smoother(_products(rows) + 1.0, self._fold_N, ridge)
        names, self._owner_N = np.unique(np.asarray(clusters), return_inverse=True)
        self._clusters, self._nulls = len(names), dict[tuple[int, int, int], Floats]()

    def auc(self, is_first_N: NDArray[np.bool_]) -> float:
        return float(self._aucs(is_first_N[:, None])[0])

    def p(self, is_first_N: NDArray[np.bool_], *, seed: int = 0, permutations: int = PERMUTATIONS) -> float:
        """Two-sided permutation p of "both sets are of the same people"; clusters are reassigned and refitted.

        All assignments with equally many clusters share one null distribution, which is drawn once.
        """
        size = len(np.unique(self._owner_N[is_first_N]))
        if size + len(np.unique(self._owner_N[~is_first_N])) > self._clusters:
            raise ValueError("a cluster is on both sides; deal whole clusters")
        key = size, seed, permutations
        if key not in self._nulls:
            self._nulls[key] = self._null(size, rng_for(seed, "told apart unpaired"), permutations)
        extreme = int((self._nulls[key] >= abs(self.auc(is_first_N) - 0.5) - 1e-12).sum())
        return (1 + extreme) / (1 + permutations)

    def _null(self, size: int, rng: np.random.Generator, permutations: int) -> Floats:
        gaps = []
        for start in range(0, permutations, CHUNK):
            ranks = rng.random((self._clusters, min(CHUNK, permutations - start))).argsort(axis=0)
            gaps.append(np.abs(self._aucs((ranks < size)[self._owner_N]) - 0.5))
        return np.concatenate(gaps)

    def _aucs(self, is_first_NR: NDArray[np.bool_]) -> Floats:
        scores_NR = _rounded(self._smoother_NN @ (is_first_NR * 2.0 - 1.0))
        above, pairs = np.zeros(is_first_NR.shape[1]), np.zeros(is_first_NR.shape[1])
        for fold in np.unique(self._fold_N):
            held = self._fold_N == fold
            first = is_first_NR[held]
            count = first.sum(0)
            ranks = rankdata(scores_NR[held], axis=0)
            above += (ranks * first).sum(0) - count * (count + 1) / 2
            pairs += count * (held.sum() - count)
        areas: Floats = np.divide(above, pairs, out=np.full(len(pairs), 0.5), where=pairs > 0)
        return areas


@dataclass(frozen=True)
class Discriminator:
    """Fitted discriminator, for choosing among candidates. Only family A may choose."""

    representation: Representation
    weights_D: Floats = field(repr=False)

    @classmethod
    def fit(
        cls,
        representation: Representation,
        prefixes: Sequence[Prefix],
        simulated: Sequence[str],
        people: Sequence[str],
    ) -> Self:
        """Fits on all pairs: a simulator's and a person's text at each prefix."""
        difference = representation.features(prefixes, simulated) - representation.features(prefixes, people)
        products = _products(difference)
        products[np.diag_indices_from(products)] += representation.ridge
        dual = cho_solve(cho_factor(products), np.ones(len(products)))
        return cls(representation, np.asarray(difference.T @ dual, dtype=np.float64).ravel())

    def score(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> Floats:
        """Returns how simulator-like each text scores; only scores at the same prefix are comparable."""
        rows = self.representation.features(prefixes, texts)
        return np.asarray(rows @ self.weights_D, dtype=np.float64).ravel()

    def save(self, path: str | Path) -> None:
        with Path(path).open("wb") as stream:
            np.savez_compressed(stream, family=self.representation.family, weights=self.weights_D)

    @classmethod
    def load(cls, path: str | Path, representation: Representation) -> Self:
        """Loads a fitted discriminator. Raises DataError for a file of another family."""
        with np.load(path) as archive:
            if str(archive["family"]) != representation.family:
                raise DataError(
                    f"{path}: a discriminator of family {archive['family']}, not {representation.family}"
                )
            return cls(representation, np.asarray(archive["weights"], dtype=np.float64))


def _choices(scores: NDArray[np.floating[Any]]) -> Floats:
    """1 above zero, 1/2 at zero up to float noise, else 0."""
    return np.asarray((np.sign(_rounded(scores)) + 1.0) / 2.0, dtype=np.float64)


def _rounded(scores: NDArray[np.floating[Any]]) -> Floats:
    """Scores rounded so that equal rows tie; their sums differ by float noise."""
    return np.asarray(np.round(scores, 9), dtype=np.float64)


def _fold_of(clusters: Sequence[str], folds: int, seed: int) -> Ints:
    count = len(set(clusters))
    if count < 2:
        raise DataError(f"a discriminator needs turns of two people or more; there are {count}")
    return grouped_folds(clusters, min(folds, count), rng_for(seed, "discriminator folds"))


def _products(rows: Rows) -> Floats:
    products = rows @ rows.T
    return np.asarray(products.todense() if issparse(products) else products, dtype=np.float64)


def _smoother(products_NN: Floats, fold_N: Ints, ridge: float) -> Floats:
    """Smoother matrix (N, N): its product with the labels is the out-of-fold predictions of ridge regression."""
    smoother = np.zeros_like(products_NN)
    for fold in np.unique(fold_N):
        held, train = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        inner = products_NN[np.ix_(train, train)]
        inner[np.diag_indices_from(inner)] += ridge
        solution = cho_solve(cho_factor(inner, overwrite_a=True), products_NN[np.ix_(train, held)])
        smoother[np.ix_(held, train)] = solution.T
    return smoother


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
