"""M2, the classifier two-sample test: how well a classifier tells simulated from human conversations.

Out-of-fold AUC in two views: character n-grams of the user turns, and behavioural features. 0.5 is the wrong
null: classifiers separate two halves of the same humans too, a little, which is what the floor shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.ensemble import RandomForestClassifier  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

from eval.estimates import Draws, FigureSpec, Floats, Ints, Measured, Split, rng_for
from eval.features import FEATURES, Sample, Scale, user_texts
from usersim.types import Conversation

View = Literal["text", "behaviour"]
LABELS = {"text": "text classifier", "behaviour": "behaviour classifier"}
Fit = Callable[[Any, Ints], Callable[[Any], Floats]]


def auc(positive: Floats, negative: Floats) -> float:
    """P(a positive scores above a negative), ties half (Mann-Whitney). 0 to 1."""
    return float(auc_rows(positive, negative, np.ones((1, len(positive))), np.ones((1, len(negative))))[0])


def auc_rows(positive: Floats, negative: Floats, pos_RN: Floats, neg_RN: Floats) -> Floats:
    """The same under weights (counts of a resample), one pair of weightings a row."""
    levels = np.unique(np.concatenate([positive, negative]))
    hits, misses = (
        weights @ np.eye(len(levels))[np.searchsorted(levels, scores)]
        for weights, scores in ((pos_RN, positive), (neg_RN, negative))
    )
    below = np.cumsum(misses, axis=1) - misses / 2
    area: Floats = (hits * below).sum(1) / (hits.sum(1) * misses.sum(1))
    return area


def grouped_folds(groups: Sequence[str], folds: int, rng: np.random.Generator) -> Ints:
    """A fold for every item; items of one group share it."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    fold: Ints = (rng.permutation(len(names)) % folds)[owner]
    return fold


def out_of_fold(rows: Any, labels: Ints, fold: Ints, fit: Fit) -> Floats:
    """Each item's score from a classifier that saw none of its fold; 0 where training held one class only."""
    scores = np.zeros(len(labels))
    for k in np.unique(fold):
        held = fold == k
        if 0 < labels[~held].sum() < (~held).sum():
            scores[held] = fit(rows[~held], labels[~held])(rows[held])
    return scores


def task_of(conversation: Conversation) -> str:
    """Conversations about the same thing share a fold: topic must not give the source away."""
    goal = conversation.profile.goal
    return goal.summary if goal else conversation.group or conversation.id


@dataclass(frozen=True)
class Classifier:
    """Logistic regression on log-scaled counts of character 1- to 4-grams, or a random forest on features."""

    view: View
    folds: int = 5
    seed: int = 0
    text_characters: int = 4000

    @property
    def key(self) -> str:
        return f"auc_{self.view}"

    @property
    def specs(self) -> list[FigureSpec]:
        return [FigureSpec(key=self.key, metric="M2", label=LABELS[self.view], unit="AUC", most=1.0)]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        rows, tasks = self._rows(pool, pool), np.array([task_of(c) for c in pool.conversations])
        values = []
        for index, split in enumerate(splits):
            both = np.concatenate([split.first, split.second])
            scores = self._scores(rows[both], list(tasks[both]), len(split.first), f"floor {index}")
            values.append(auc(scores[: len(split.first)], scores[len(split.first) :]))
        return {self.key: np.array(values)}

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        """The interval resamples out-of-fold scores; classifiers are not trained anew, so that no copy of a
        conversation lies in training and test."""
        both = _join(simulated, human)
        tasks = [task_of(c) for c in both.conversations]
        scores = self._scores(self._rows(both, pool), tasks, len(simulated), "measure")
        positive, negative = scores[: len(simulated)], scores[len(simulated) :]
        return {
            self.key: Measured(
                auc(positive, negative),
                auc_rows(positive, negative, draws.simulated_BN, draws.human_BN),
            )
        }

    def _rows(self, sample: Sample, pool: Sample) -> Any:
        if self.view == "behaviour":
            return Scale.of(pool).standardise(sample)
        return ngram_rows(sample, self.text_characters)[0]

    def _scores(self, rows: Any, tasks: Sequence[str], positives: int, purpose: str) -> Floats:
        labels = (np.arange(len(tasks)) < positives).astype(np.int64)
        fold = grouped_folds(tasks, self.folds, rng_for(self.seed, f"{self.key} {purpose}"))
        return out_of_fold(rows, labels, fold, _fit_text if self.view == "text" else _fit_forest)


def ngram_rows(sample: Sample, characters: int) -> tuple[Any, Any]:
    """(unit-length rows of 1 + log counts, the vectoriser). N-grams of a single conversation are left out."""
    texts = [_document(conversation, characters) for conversation in sample.conversations]
    vectoriser = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4), min_df=2, lowercase=False)
    counts = vectoriser.fit_transform(texts).astype(np.float64)
    counts.data = 1 + np.log(counts.data)
    return normalize(counts).tocsr(), vectoriser


def telling_ngrams(
    simulated: Sample, human: Sample, *, characters: int = 4000, top: int = 12
) -> tuple[list[str], list[str]]:
    """(n-grams that speak most for simulated, for human): the largest weights of the text classifier."""
    rows, vectoriser = ngram_rows(_join(simulated, human), characters)
    labels = (np.arange(rows.shape[0]) < len(simulated)).astype(np.int64)
    weights = _text_model().fit(rows, labels).coef_[0]
    names = vectoriser.get_feature_names_out()
    order = np.argsort(weights)
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


def _join(simulated: Sample, human: Sample) -> Sample:
    return Sample(simulated.conversations + human.conversations, simulated.values + human.values)


def _text_model() -> Any:
    return LogisticRegression(C=10.0, solver="liblinear", dual=True, random_state=0, max_iter=300)


def _fit_text(rows: Any, labels: Ints) -> Callable[[Any], Floats]:
    score: Callable[[Any], Floats] = _text_model().fit(rows, labels).decision_function
    return score


def _fit_forest(rows: Any, labels: Ints) -> Callable[[Any], Floats]:
    forest = RandomForestClassifier(
        n_estimators=50, max_depth=8, min_samples_leaf=3, random_state=0, n_jobs=1
    ).fit(rows, labels)
    return lambda held: np.asarray(forest.predict_proba(held)[:, 1], dtype=np.float64)
