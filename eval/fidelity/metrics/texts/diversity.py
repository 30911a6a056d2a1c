"""M4, diversity of user text at a fixed budget of words.

The same number of words is read of every conversation: a run of `words` consecutive ones from a seeded random
position, or all where there are fewer. Both sides hold equally many conversations. The measures are

- distinct-2: different word pairs over all word pairs, at the same number of pairs on both sides;
- the Vendi score, an effective number of different conversations;
- the mean similarity of two conversations, over all pairs and over pairs that share a goal (within-goal spread).

Similarity is the cosine in two spaces: character 1- to 4-grams (log-scaled counts), and sentence embeddings. Too much
variety is as little human as too little, so every metric is a distance from the human value. It is |log2 ratio| for
distinct-2 and Vendi (1 is twice or half) and |difference| for similarities, which may be zero or negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]
from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.metrics.texts.embedded import unavailable, vectors
from eval.fidelity.metrics.texts.variety import log_vendi, log_vendi_near, mean_similarity, rarefied
from eval.fidelity.samples.features import Sample, user_texts
from usersim.stats.estimates import (
    Draws,
    Estimate,
    FigureSpec,
    Floats,
    Ints,
    Measured,
    Split,
    interval,
    rng_for,
)
from usersim.text.style import words
from usersim.types import Conversation

Space = Literal["text", "embeddings"]
LABELS: dict[Space, str] = {"text": "wording", "embeddings": "meaning"}
LEAST_GOALS = 5
"""Goals with two conversations on both sides, below which there is no within-goal metric."""

Rows = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Contents:
    """Word pairs, similarities and goals of one set of conversations."""

    pairs_NU: Any
    """Sparse counts of word pairs."""
    similar: dict[str, Floats]
    """(N, N) cosine by space; ones on the diagonal."""
    members: dict[str, Ints]
    """Indices of the conversations of every goal that has two or more."""


@dataclass(frozen=True)
class Diversity:
    words: int = 32
    """Words read of every conversation. Half of the chats in public logs have at most 40 to 70 words of the user."""
    seed: int = 0
    spaces: tuple[Space, ...] = ("text",)
    """Embeddings are left out where there is no model."""

    @property
    def specs(self) -> list[FigureSpec]:
        spec_list = [_spec("distinct_2", "distinct word pairs", "|log2 ratio|")]
        for space in self.spaces:
            name = LABELS[space]
            spec_list += [
                _spec(f"vendi_{space}", f"effective number of conversations ({name})", "|log2 ratio|"),
                _spec(
                    f"similarity_{space}",
                    f"similarity of two conversations ({name})",
                    "|difference|, cosine",
                    False,
                ),
                _spec(
                    f"within_goal_{space}", f"similarity within a goal ({name})", "|mean difference|, cosine"
                ),
            ]
        return spec_list

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        contents = self.read(pool)
        first, second = (np.zeros((len(splits), len(pool))) for _ in range(2))
        for row, split in enumerate(splits):
            first[row, split.first] = second[row, split.second] = 1
        gaps_by_key = gaps(contents, first, contents, second, log_vendi)
        return {spec.key: gaps_by_key.get(spec.key, np.full(len(splits), np.nan)) for spec in self.specs}

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        # Row 0 is the data as it is, the rest are its resamples.
        rows = [np.vstack([np.ones(c.shape[1]), c]) for c in (draws.simulated_BN, draws.human_BN)]
        gaps_by_key = gaps(self.read(simulated), rows[0], self.read(human), rows[1], log_vendi_near)
        return {k: Measured(float(v[0]), v[1:]) for k, v in gaps_by_key.items() if not np.isnan(v[0])}

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> list[Curve]:
        """Returns distinct-2 and Vendi of both sides beside each other, which shows the direction of a metric."""
        sides = [self.read(simulated), self.read(human)]
        rows = [np.vstack([np.ones(c.shape[1]), c]) for c in (draws.simulated_BN, draws.human_BN)]
        budgets = np.minimum(*(pairs_in(side, w) for side, w in zip(sides, rows, strict=True)))
        simulated_logs, human_logs = (
            {k: np.exp2(v) for k, v in logs(side, w, budgets, log_vendi_near).items()}
            for side, w in zip(sides, rows, strict=True)
        )
        return [
            Curve(
                key="diversity",
                metric="M4",
                label="diversity of user text",
                x_label="measure",
                y_label="relative to human",
                x=tuple(spec.label for spec in self.specs if spec.key in human_logs),
                human=tuple(_relative(v, v[0], len(human)) for v in human_logs.values()),
                simulated=tuple(
                    _relative(v, human_logs[k][0], len(simulated)) for k, v in simulated_logs.items()
                ),
                categories=True,
            )
        ]

    def read(self, sample: Sample) -> Contents:
        passages = [passage(c, self.words, self.seed) for c in sample.conversations]
        similar: dict[str, Floats] = {}
        if "text" in self.spaces:
            similar["text"] = ngram_similarity([" ".join(words_of_passage) for words_of_passage in passages])
        if "embeddings" in self.spaces and unavailable() is None:
            name = f"passages of {self.words}, seed {self.seed}"
            rows = vectors(sample, name, lambda c: [" ".join(passage(c, self.words, self.seed))])
            similar["embeddings"] = rows @ rows.T
        return Contents(word_pairs(passages), similar, _members(sample.conversations))


def passage(conversation: Conversation, length: int, seed: int) -> list[str]:
    """Returns a run of `length` lower-case words of the user, turns joined; all where there are fewer; the raw text
    where there is no word. Its position depends on seed and text only, so equal conversations have equal passages."""
    texts = user_texts(conversation)
    word_list = [word.lower() for text in texts for word in words(text)] or [" ".join(texts).strip()]
    if len(word_list) <= length:
        return word_list
    start = int(rng_for(seed, " ".join(word_list)).integers(len(word_list) - length + 1))
    return word_list[start : start + length]


def word_pairs(passages: Sequence[Sequence[str]]) -> Any:
    """Returns (N, U) sparse counts of two words in a row."""
    counter = CountVectorizer(
        analyzer=lambda passage_words: [" ".join(pair) for pair in pairwise(passage_words)]
    )
    # A set without any pair has an empty vocabulary, which scikit-learn refuses; the last row is ours.
    return counter.fit_transform([*passages, ["", ""]])[:-1, :].astype(np.float64)


def ngram_similarity(texts: Sequence[str]) -> Floats:
    """Returns the (N, N) cosine of 1 + log counts of character 1- to 4-grams; texts without any n-gram are similar only
    to each other."""
    counts = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4)).fit_transform([*texts, "."])[:-1]
    counts = counts.astype(np.float64)
    counts.data = 1 + np.log(counts.data)
    rows = normalize(counts)
    similar: Floats = (rows @ rows.T).toarray()
    bare = np.flatnonzero(similar.diagonal() == 0)
    similar[np.ix_(bare, bare)] = 1.0
    return similar


def gaps(a: Contents, a_RN: Floats, b: Contents, b_RN: Floats, vendi_rows: Rows) -> dict[str, Floats]:
    """Returns every metric between two sets, one pair of weightings a row; NaN where a row holds nothing to measure."""
    budgets = np.minimum(pairs_in(a, a_RN), pairs_in(b, b_RN))
    logs_a, logs_b = (logs(side, w, budgets, vendi_rows) for side, w in ((a, a_RN), (b, b_RN)))
    gaps_by_key = {key: np.abs(logs_a[key] - logs_b[key]) for key in logs_a}
    for space in a.similar:
        mean_a, mean_b = (mean_similarity(side.similar[space], w) for side, w in ((a, a_RN), (b, b_RN)))
        gaps_by_key[f"similarity_{space}"] = np.abs(mean_a - mean_b)
        gaps_by_key[f"within_goal_{space}"] = np.abs(within_goals(a, a_RN, b, b_RN, space))
    return gaps_by_key


def logs(contents: Contents, rows_RN: Floats, budgets_R: Floats, vendi_rows: Rows) -> dict[str, Floats]:
    """Returns log2 of distinct-2 at the budgets (word pairs) and of the Vendi scores."""
    logs_by_key = {"distinct_2": np.log2(distinct_2(contents, rows_RN, budgets_R))}
    for space, similar in contents.similar.items():
        logs_by_key[f"vendi_{space}"] = vendi_rows(similar, rows_RN) / np.log(2)
    return logs_by_key


def distinct_2(contents: Contents, rows_RN: Floats, budgets_R: Floats) -> Floats:
    """Returns the share of different pairs among as many word pairs as the budget; NaN for a budget of zero."""
    return np.array(
        [
            rarefied(contents.pairs_NU.T @ row, budget) / budget if budget else np.nan
            for row, budget in zip(rows_RN, budgets_R, strict=True)
        ]
    )


def pairs_in(contents: Contents, rows_RN: Floats) -> Floats:
    total: Floats = rows_RN @ np.asarray(contents.pairs_NU.sum(1)).ravel()
    return total


def within_goals(a: Contents, a_RN: Floats, b: Contents, b_RN: Floats, space: str) -> Floats:
    """Returns the mean over goals of the mean similarity within the goal, a's minus b's; NaN below `LEAST_GOALS` goals.

    Two conversations give a goal's mean without bias, so the sides may hold unequal numbers of a goal. A goal counts
    by its weight on both sides: once, for the data itself.
    """
    total, weight, goals = (np.zeros(len(a_RN)) for _ in range(3))
    for goal in a.members.keys() & b.members.keys():
        at_a, at_b = a.members[goal], b.members[goal]
        gap = mean_similarity(a.similar[space][np.ix_(at_a, at_a)], a_RN[:, at_a])
        gap = gap - mean_similarity(b.similar[space][np.ix_(at_b, at_b)], b_RN[:, at_b])
        is_known = ~np.isnan(gap)
        share = a_RN[:, at_a].mean(1) * b_RN[:, at_b].mean(1) * is_known
        total, weight, goals = total + np.where(is_known, gap * share, 0), weight + share, goals + is_known
    mean: Floats = np.divide(total, weight, out=np.full(len(total), np.nan), where=goals >= LEAST_GOALS)
    return mean


def _members(conversations: Sequence[Conversation]) -> dict[str, Ints]:
    members: dict[str, list[int]] = {}
    for index, conversation in enumerate(conversations):
        if conversation.profile.goal:
            members.setdefault(conversation.profile.goal.summary, []).append(index)
    return {goal: np.array(indices) for goal, indices in members.items() if len(indices) > 1}


def _spec(key: str, label: str, unit: str, headline: bool = True) -> FigureSpec:
    return FigureSpec(key=key, metric="M4", label=label, unit=unit, headline=headline)


def _relative(values: Floats, human: float, n: int) -> Estimate | None:
    finite_values = values[1:][np.isfinite(values[1:])]
    if not (np.isfinite(values[0]) and len(finite_values)):
        return None
    low, high = interval((finite_values - np.median(finite_values) + values[0]) / human)
    return Estimate(value=float(values[0] / human), low=max(0.0, low), high=high, n=n)
