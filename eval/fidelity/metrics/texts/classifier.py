"""M2, the classifier two-sample test: how well a classifier tells simulated from human conversations.

Out-of-fold AUC in three views. 0.5 is the wrong null: classifiers separate two halves of the same humans too, a
little, which is what the floor shows.

- text: counts of character 1- to 4-grams of the user turns, log-scaled, unit length;
- embeddings: the mean sentence embedding of the user turns;
- behaviour: the features of `eval.fidelity.samples.features`.

The first two go to least squares on the labels with a ridge (a regularised Fisher discriminant), in its dual form: all
folds and human splits share one matrix of inner products. For text these are linear, and the AUC is that of a logistic
regression at a tenth of the time. For embeddings they are Gaussian: who mixes topics lies in the middle of everybody,
which no line tells apart. The features go to a random forest, which sees thresholds and combinations.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn import config_context  # type: ignore[import-untyped]
from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]
from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

from eval.fidelity.metrics.texts.coverage import distances
from eval.fidelity.metrics.texts.embedded import joined, turn_means, unavailable
from eval.fidelity.metrics.texts.folds import (
    Fit,
    auc,
    auc_rows,
    grouped_folds,
    matters,
    out_of_fold,
    people,
)
from eval.fidelity.samples.features import FEATURES, Sample, Scale, user_texts
from usersim.errors import DataError
from usersim.stats.estimates import Draws, FigureSpec, Floats, Ints, Measured, Split, rng_for
from usersim.types import Conversation

View = Literal["text", "behaviour", "embeddings"]
LABELS = {
    "text": "text classifier",
    "behaviour": "behaviour classifier",
    "embeddings": "embedding classifier",
}
RIDGE = {"text": 0.3, "embeddings": 1.0}
TREES = 25
"""As good as 50 on 400 human conversations (AUC within 0.005), in half the time."""


@dataclass(frozen=True)
class Classifier:
    view: View
    folds: int = 5
    seed: int = 0
    text_characters: int = 4000

    @property
    def key(self) -> str:
        return f"auc_{self.view}"

    @property
    def specs(self) -> list[FigureSpec]:
        label = LABELS[self.view]
        return [FigureSpec(key=self.key, metric="M2", label=label, unit="AUC", most=1.0, two_sided=True)]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        if self._cannot():
            return {self.key: np.full(len(splits), np.nan)}
        trial = self._trial(pool, pool)
        return {self.key: np.array([self._of_split(trial, split) for split in splits])}

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        """The interval resamples out-of-fold scores; classifiers are not trained anew, so that no copy of a
        conversation lies in training and test."""
        if self._cannot():
            return {}
        positive, negative = self.scores(simulated, human, pool)
        value = auc(positive, negative)
        if np.isnan(value):
            return {}
        replicates = auc_rows(positive, negative, draws.simulated_BN, draws.human_BN)
        return {self.key: Measured(value, replicates)}

    def scores(self, simulated: Sample, human: Sample, pool: Sample) -> tuple[Floats, Floats]:
        """(of the simulated, of the human conversations): out of fold, the higher the more simulated it looks.
        NaN where all others share its task or its author. Raises ConfigError where there are no embeddings."""
        both = joined(simulated, human)
        found = self._scores(self._trial(both, pool), np.arange(len(both)), len(simulated), "measure")
        return found[: len(simulated)], found[len(simulated) :]

    def _of_split(self, trial: _Trial, split: Split) -> float:
        both, half = np.concatenate([split.first, split.second]), len(split.first)
        found = self._scores(trial, both, half, f"floor {zlib.crc32(both.tobytes())}")
        return auc(found[:half], found[half:])

    def _scores(self, trial: _Trial, chosen: Ints, positives: int, purpose: str) -> Floats:
        labels = (np.arange(len(chosen)) < positives).astype(np.int64)
        rng = rng_for(self.seed, f"{self.key} {purpose}")
        fold = grouped_folds([trial.matters[i] for i in chosen], self.folds, rng)
        return out_of_fold(trial.rows[chosen], labels, fold, trial.fit, people_NP=trial.people_NP[chosen])

    def _trial(self, sample: Sample, pool: Sample) -> _Trial:
        of_whom = matters(sample.conversations), people(sample.conversations)
        if self.view == "behaviour":
            return _Trial(Scale.of(pool).standardise(sample), _fit_forest, *of_whom)
        products = (
            inner_products(ngram_rows(sample, self.text_characters)[0])
            if self.view == "text"
            else gaussian(sample, pool)
        )
        # The rows are positions: what a fit needs of them are inner products, shared by all fits.
        fit = ridge_on(products, RIDGE[self.view])
        return _Trial(np.arange(len(sample)), fit, *of_whom)

    def _cannot(self) -> bool:
        return self.view == "embeddings" and unavailable() is not None


@dataclass(frozen=True)
class _Trial:
    """What stays the same in all fits over one set of conversations."""

    rows: Any
    fit: Fit
    matters: list[str]
    people_NP: Ints


def inner_products(rows: Any) -> Floats:
    """(N, N), of the rows with a constant 1 added: the constant is the intercept."""
    products = rows @ rows.T
    dense: Floats = np.asarray(products.todense() if hasattr(products, "todense") else products) + 1.0
    return dense


def ridge_on(products_NN: Floats, ridge: float) -> Fit:
    """Least squares on labels ±1 in its dual form: score(x) = k(x)ᵀ (K + ridge·I)⁻¹ y, rows given by position."""

    def fit(train: Ints, labels: Ints) -> Callable[[Ints], Floats]:
        weights = ridge_weights(products_NN[np.ix_(train, train)], labels, ridge)

        def score(held: Ints) -> Floats:
            found: Floats = products_NN[np.ix_(held, train)] @ weights
            return found

        return score

    return fit


def ridge_weights(products_NN: Floats, labels: Ints, ridge: float) -> Floats:
    """One weight per training row."""
    found: Floats = np.linalg.solve(products_NN + ridge * np.eye(len(labels)), 2.0 * labels - 1.0)
    return found


def ngram_rows(sample: Sample, characters: int) -> tuple[Any, Any]:
    """(unit-length rows of 1 + log counts, the vectoriser). N-grams of a single conversation are left out."""
    texts = [_document(conversation, characters) for conversation in sample.conversations]
    vectoriser = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=2, lowercase=False)
    try:
        counts = vectoriser.fit_transform(texts).astype(np.float64)
    except ValueError as error:
        raise DataError("the user turns of no two conversations share a single character") from error
    counts.data = 1 + np.log(counts.data)
    return normalize(counts).tocsr(), vectoriser


def gaussian(sample: Sample, pool: Sample) -> Floats:
    """(N, N) exp(-d²/s²) + 1 of mean turn vectors; s² is the variance of the human pool, half of what two people in
    it are apart (squared) on average."""
    variance = float(turn_means(pool).var(axis=0).sum())
    points = turn_means(sample)
    products: Floats = np.exp(-(distances(points, points) ** 2) / max(variance, 1e-9)) + 1.0
    return products


def telling_ngrams(
    simulated: Sample, human: Sample, *, characters: int = 4000, top: int = 12
) -> tuple[list[str], list[str]]:
    """(n-grams that speak most for simulated, for human): the largest weights of the text classifier."""
    rows, vectoriser = ngram_rows(joined(simulated, human), characters)
    labels = (np.arange(rows.shape[0]) < len(simulated)).astype(np.int64)
    weights = rows.T @ ridge_weights(inner_products(rows), labels, RIDGE["text"])
    names, order = vectoriser.get_feature_names_out(), np.argsort(weights)
    return [str(names[i]) for i in order[::-1][:top]], [str(names[i]) for i in order[:top]]


def telling_features(simulated: Sample, human: Sample, pool: Sample) -> list[tuple[str, float]]:
    """(feature, AUC of it alone), the most telling one first; below 0.5: humans have more of it."""
    scale = Scale.of(pool)
    vectors_s, vectors_h = scale.standardise(simulated), scale.standardise(human)
    alone = [(feature.label, auc(vectors_s[:, i], vectors_h[:, i])) for i, feature in enumerate(FEATURES)]
    return sorted(alone, key=lambda item: -abs(item[1] - 0.5))


def _document(conversation: Conversation, characters: int) -> str:
    # Line breaks and runs of spaces are a behavioural feature; here they would only drown the words.
    return " ".join(" ".join(user_texts(conversation)).split())[:characters]


def _fit_forest(rows: Any, labels: Ints) -> Callable[[Any], Floats]:
    # Checking what each tree is given takes a fifth of the time of such small ones; rows are finite (`Scale`).
    with config_context(assume_finite=True, skip_parameter_validation=True):
        forest = RandomForestClassifier(
            n_estimators=TREES, max_depth=8, min_samples_leaf=3, random_state=0, n_jobs=1
        ).fit(rows, labels)
    return lambda held: np.asarray(forest.predict_proba(held)[:, 1], dtype=np.float64)
