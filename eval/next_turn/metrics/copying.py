"""Copying: word runs that a turn shares with the person's true turn, or with the training conversations.

A run counts only if neither the goal nor the history contains it: quoting the context is not memorisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

from eval.likelihood.memory import Hashes, any_in, run_hashes
from eval.next_turn.metrics.discriminator_features import goal_text, lower_words
from eval.next_turn.metrics.values import MetricSpec, TurnMetric, Values
from eval.next_turn.prefixes import Prefix
from usersim.types import Conversation

RUN = 8
"""Number of words of a run."""
SPECS = (
    MetricSpec(
        key="copying.reference",
        group="copying",
        label="holds eight words in a row of the person's true turn",
        unit="share of turns",
        is_share=True,
    ),
    MetricSpec(
        key="copying.training",
        group="copying",
        label="holds eight words in a row of a training user's turn",
        unit="share of turns",
        is_share=True,
    ),
)


class Copying(TurnMetric):
    """Shares of turns with a copied run.

    A person's own turn is the reference, so `values` is for simulators. For people, `people` compares their turn
    with the true turn of another person.

    Args:
        training: Training conversations of the simulator; None leaves `copying.training` undefined.
    """

    def __init__(self, training: Iterable[Conversation] | None = None) -> None:
        self._numbers: dict[str, int] = {}
        self._seen: Hashes | None = None
        if training is not None:
            runs = [self._runs(turn.text) for c in training for turn in c.turns if turn.role == "user"]
            self._seen = np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *runs]))

    @property
    def specs(self) -> Sequence[MetricSpec]:
        return SPECS if self._seen is not None else SPECS[:1]

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        """Returns the values of a simulator's turns, each against the true turn at its prefix."""
        return self._against(prefixes, texts, [prefix.text for prefix in prefixes])

    def people(self, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        """Returns the values of people's turns, each against the most similar turn of another person.

        Both turns are at the same position.
        `copying.reference` is undefined if no other person has a turn at that position.
        """
        own = [prefix.text or "" for prefix in prefixes]
        return self._against(prefixes, own, most_alike(prefixes))

    def _against(
        self, prefixes: Sequence[Prefix], texts: Sequence[str], references: Sequence[str | None]
    ) -> dict[str, Values]:
        copies: list[float | None] = []
        recitals: list[float | None] = []
        for prefix, text, reference in zip(prefixes, texts, references, strict=True):
            own = self._new_runs(prefix, text)
            copies.append(None if reference is None else float(np.isin(own, self._runs(reference)).any()))
            recitals.append(None if self._seen is None else float(any_in(own, self._seen)))
        values = {SPECS[0].key: Values.of(copies)}
        return values | ({SPECS[1].key: Values.of(recitals)} if self._seen is not None else {})

    def _new_runs(self, prefix: Prefix, text: str) -> Hashes:
        own = self._runs(text)
        if not len(own):
            return own
        context_texts = [turn.text for turn in prefix.history] + (
            [goal_text(prefix.goal)] if prefix.goal else []
        )
        return own[~np.isin(own, np.concatenate([self._runs(part) for part in ["", *context_texts]]))]

    def _runs(self, text: str) -> Hashes:
        numbers = self._numbers
        return run_hashes([numbers.setdefault(word, len(numbers)) for word in lower_words(text)], RUN)


def most_alike(prefixes: Sequence[Prefix]) -> list[str | None]:
    """Returns for each prefix the most similar turn (TF-IDF cosine) of another cluster at its position, or None."""
    nearest: list[str | None] = [None] * len(prefixes)
    if not any((prefix.text or "").strip() for prefix in prefixes):
        return nearest
    rows = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True).fit_transform(
        [prefix.text or "" for prefix in prefixes]
    )
    position_P = np.array([prefix.position for prefix in prefixes])
    clusters = np.array([prefix.cluster for prefix in prefixes])
    has_text_P = np.array([prefix.text is not None for prefix in prefixes])
    for position in np.unique(position_P):
        here = np.flatnonzero((position_P == position) & has_text_P)
        cosine = (rows[here] @ rows[here].T).toarray()
        cosine[clusters[here][:, None] == clusters[here][None, :]] = -1.0
        for row, best in enumerate(cosine.argmax(1)) if len(here) else ():
            if cosine[row, best] >= 0:
                nearest[here[row]] = prefixes[here[best]].text
    return nearest
