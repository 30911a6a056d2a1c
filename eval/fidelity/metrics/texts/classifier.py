"""M2, the classifier two-sample test: how well a classifier tells simulated from human conversations.

Out-of-fold AUC in three views. 0.5 is the wrong null: classifiers also separate two halves of the same humans a
little, which the human baseline shows.

- text: counts of character 1- to 4-grams of the user turns, log-scaled, unit length;
- embeddings: the mean sentence embedding of the user turns;
- behaviour: the features of `eval.fidelity.samples.features`.

Text and embeddings go to least squares on the labels with a ridge (a regularised Fisher discriminant) in its dual
form: all folds and human splits share one matrix of inner products. For text these products are linear, and the AUC
is that of a logistic regression at a tenth of the time. For embeddings they are Gaussian: a simulator that mixes
topics lies in the middle of all people, which no linear boundary separates. The features go to a random forest, which
models thresholds and combinations.
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
from eval.fidelity.samples.features import FEATURES, FeatureScale, Sample, user_texts
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
        if self._is_unavailable():
            return {self.key: np.full(len(splits), np.nan)}
        data = self._fit_data(pool, pool)
        return {self.key: np.array([self._of_split(data, split) for split in splits])}

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        """Returns the AUC. The interval resamples out-of-fold scores without new fits, so that no copy of a
        conversation is in training and test."""
        if self._is_unavailable():
            return {}
        positive, negative = self.scores(simulated, human, pool)
        value = auc(positive, negative)
        if np.isnan(value):
            return {}
        replicates = auc_rows(positive, negative, draws.simulated_BN, draws.human_BN)
        return {self.key: Measured(value, replicates)}

    def scores(self, simulated: Sample, human: Sample, pool: Sample) -> tuple[Floats, Floats]:
        """Returns out-of-fold scores (simulated, human); higher looks more simulated. NaN where all others share the
        conversation's task or author. Raises ConfigError without an embedding model."""
        both_samples = joined(simulated, human)
        both_scores = self._scores(
            self._fit_data(both_samples, pool), np.arange(len(both_samples)), len(simulated), "measure"
        )
        return both_scores[: len(simulated)], both_scores[len(simulated) :]

    def _of_split(self, data: _FitData, split: Split) -> float:
        indices, half_size = np.concatenate([split.first, split.second]), len(split.first)
        split_scores = self._scores(data, indices, half_size, f"floor {zlib.crc32(indices.tobytes())}")
        return auc(split_scores[:half_size], split_scores[half_size:])

    def _scores(self, data: _FitData, indices: Ints, positives: int, purpose: str) -> Floats:
        labels = (np.arange(len(indices)) < positives).astype(np.int64)
        rng = rng_for(self.seed, f"{self.key} {purpose}")
        fold = grouped_folds([data.matters[i] for i in indices], self.folds, rng)
        return out_of_fold(data.rows[indices], labels, fold, data.fit, people_NP=data.people_NP[indices])

    def _fit_data(self, sample: Sample, pool: Sample) -> _FitData:
        of_whom = matters(sample.conversations), people(sample.conversations)
        if self.view == "behaviour":
            return _FitData(FeatureScale.of(pool).standardise(sample), _fit_forest, *of_whom)
        products = (
            inner_products(ngram_rows(sample, self.text_characters)[0])
            if self.view == "text"
            else gaussian(sample, pool)
        )
        # The rows are positions: a fit needs only their inner products, which all fits share.
        fit = ridge_on(products, RIDGE[self.view])
        return _FitData(np.arange(len(sample)), fit, *of_whom)

    def _is_unavailable(self) -> bool:
        return self.view == "embeddings" and unavailable() is not None


@dataclass(frozen=True)
class _FitData:
    """Data shared by all fits over one set of conversations."""

    rows: Any
    fit: Fit
    matters: list[str]
    people_NP: Ints


def inner_products(rows: Any) -> Floats:
    """Returns the (N, N) inner products of the rows with a constant 1 added; the constant is the intercept."""
    products = rows @ rows.T
    dense: Floats = np.asarray(products.todense() if hasattr(products, "todense") else products) + 1.0
    return dense


def ridge_on(products_NN: Floats, ridge: float) -> Fit:
    """Returns a fit of least squares on labels ±1 in its dual form: score(x) = k(x)ᵀ (K + ridge·I)⁻¹ y, with rows given
    by position."""

    def fit(train: Ints, labels: Ints) -> Callable[[Ints], Floats]:
        weights = ridge_weights(products_NN[np.ix_(train, train)], labels, ridge)

        def score(held_out: Ints) -> Floats:
            held_scores: Floats = products_NN[np.ix_(held_out, train)] @ weights
            return held_scores

        return score

    return fit


def ridge_weights(products_NN: Floats, labels: Ints, ridge: float) -> Floats:
    """Returns one weight per training row."""
    weights: Floats = np.linalg.solve(products_NN + ridge * np.eye(len(labels)), 2.0 * labels - 1.0)
    return weights


def ngram_rows(sample: Sample, characters: int) -> tuple[Any, Any]:
    """Returns (unit-length rows of 1 + log counts, the vectoriser). N-grams of a single conversation are left out."""
    texts = [_document(conversation, characters) for conversation in sample.conversations]
    vectoriser = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=2, lowercase=False)
    try:
        counts = vectoriser.fit_transform(texts).astype(np.float64)
    except ValueError as error:
        raise DataError("the user turns of no two conversations share a single character") from error
    counts.data = 1 + np.log(counts.data)
    return normalize(counts).tocsr(), vectoriser


def gaussian(sample: Sample, pool: Sample) -> Floats:
    """Returns (N, N) exp(-d²/s²) + 1 of mean turn vectors. s² is the variance of the human pool: half the mean squared
    distance between two of its people."""
    variance = float(turn_means(pool).var(axis=0).sum())
    points = turn_means(sample)
    products: Floats = np.exp(-(distances(points, points) ** 2) / max(variance, 1e-9)) + 1.0
    return products


def telling_ngrams(
    simulated: Sample, human: Sample, *, characters: int = 4000, top: int = 12
) -> tuple[list[str], list[str]]:
    """Returns (n-grams of the simulated side, of the human side) with the largest weights in the text classifier."""
    rows, vectoriser = ngram_rows(joined(simulated, human), characters)
    labels = (np.arange(rows.shape[0]) < len(simulated)).astype(np.int64)
    weights = rows.T @ ridge_weights(inner_products(rows), labels, RIDGE["text"])
    names, order = vectoriser.get_feature_names_out(), np.argsort(weights)
    return [str(names[i]) for i in order[::-1][:top]], [str(names[i]) for i in order[:top]]


def telling_features(simulated: Sample, human: Sample, pool: Sample) -> list[tuple[str, float]]:
    """Returns (feature, AUC of the feature alone), the most discriminating one first; below 0.5 humans have
    more of it."""
    scale = FeatureScale.of(pool)
    vectors_s, vectors_h = scale.standardise(simulated), scale.standardise(human)
    single_aucs = [
        (feature.label, auc(vectors_s[:, i], vectors_h[:, i])) for i, feature in enumerate(FEATURES)
    ]
    return sorted(single_aucs, key=lambda item: -abs(item[1] - 0.5))


def _document(conversation: Conversation, characters: int) -> str:
    # Line breaks and runs of spaces are a behavioural feature; here they would only drown the words.
    return " ".join(" ".join(user_texts(conversation)).split())[:characters]


def _fit_forest(rows: Any, labels: Ints) -> Callable[[Any], Floats]:
    # Input checks take a fifth of the time of such small trees; rows are finite (`FeatureScale`).
    with config_context(assume_finite=True, skip_parameter_validation=True):
        forest = RandomForestClassifier(
            n_estimators=TREES, max_depth=8, min_samples_leaf=3, random_state=0, n_jobs=1
        ).fit(rows, labels)
    return lambda held_out: np.asarray(forest.predict_proba(held_out)[:, 1], dtype=np.float64)
