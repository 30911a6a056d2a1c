"""M5: lexical entrainment, whether people take up the words of the answer they reply to.

Overlap is the share of a reply's content words that the previous answer has; what answers to *other* people have of
them by chance is taken off. Without stop words and endings in English, plain words in any language with spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.fidelity.metrics.interaction.tallies import (
    Pair,
    Tallies,
    bars,
    measured,
    measured_pair,
    split_pair,
    with_something,
)
from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.metrics.texts.lexical import stems
from eval.fidelity.samples.features import Sample
from usersim.stats.estimates import Draws, FigureSpec, Floats, Measured, Split, rng_for
from usersim.types import Conversation

SHUFFLES = 5
"""Answers of other conversations that every reply is held against."""
COLUMNS = (
    "to the answer",
    "of it, words new to the person",
    "to other people's answers",
    "above chance",
    "new above chance",
)
ABOVE, NEW_ABOVE = 3, 4
Reply = tuple[frozenset[str], frozenset[str], frozenset[str]]
"""Content words of a reply, those among them that the person had not said before, those of the answer."""


def replies(conversation: Conversation) -> list[Reply]:
    """Of every user turn after an answer that has content words."""
    found: list[Reply] = []
    said: frozenset[str] = frozenset()
    for index, turn in enumerate(conversation.turns):
        if turn.role == "user":
            own = stems(turn.text)
            if said and own and index:
                found.append((own, own - said, stems(conversation.turns[index - 1].text)))
            said |= own
    return found


def overlap(own: frozenset[str], answer: frozenset[str], among: frozenset[str]) -> float:
    """Share of `own` that is both `among` and in the answer."""
    return len(among & answer) / len(own)


@dataclass(frozen=True)
class Entrainment:
    """Difference of the mean overlap above chance; the second counts only words that the person had not said."""

    seed: int = 0

    @property
    def specs(self) -> list[FigureSpec]:
        unit = "difference in the share of content words taken up, above chance"
        return [
            FigureSpec(
                key="entrainment", metric="M5", label="words taken up from the answer", unit=unit, most=1.0
            ),
            FigureSpec(
                key="entrainment.new",
                metric="M5",
                label="new words taken up from the answer",
                unit=unit,
                headline=False,
                most=1.0,
            ),
        ]

    def tally(self, sample: Sample) -> Tallies:
        """(N, COLUMNS); every conversation with a reply weighs the same."""
        rng = rng_for(self.seed, "entrainment")
        spoken = [replies(conversation) for conversation in sample.conversations]
        owner = np.repeat(np.arange(len(spoken)), [len(found) for found in spoken])
        answers = [answer for found in spoken for _, _, answer in found]
        hits, trials = (np.zeros((len(sample), len(COLUMNS))) for _ in range(2))
        for index, found in enumerate(spoken):
            others = np.flatnonzero(owner != index)
            if not found or not len(others):
                continue
            chosen = rng.choice(others, size=(len(found), SHUFFLES))
            rows = [
                _row(reply, [answers[other] for other in row])
                for reply, row in zip(found, chosen, strict=True)
            ]
            hits[index], trials[index] = np.mean(rows, axis=0), 1
        return Tallies(hits, trials)

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        pair = split_pair(self.tally(pool), splits)
        return _figures(pair)

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        return measured(_figures(measured_pair(self.tally(simulated), self.tally(human), draws)))

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> list[Curve]:
        return with_something(
            [
                bars(
                    "entrainment",
                    "words taken up from the answer",
                    COLUMNS,
                    (self.tally(simulated), self.tally(human)),
                    range(len(COLUMNS)),
                    draws,
                )
            ]
        )


def _row(reply: Reply, others: Sequence[frozenset[str]]) -> list[float]:
    own, new, answer = reply
    here, fresh = overlap(own, answer, own), overlap(own, answer, new)
    chance, fresh_chance = (
        float(np.mean([overlap(own, other, among) for other in others])) for among in (own, new)
    )
    return [here, fresh, chance, here - chance, fresh - fresh_chance]


def _figures(pair: Pair) -> dict[str, Floats]:
    gap = np.where(pair.known_RK, np.abs(pair.first_RK - pair.second_RK), np.nan)
    return {"entrainment": gap[:, ABOVE], "entrainment.new": gap[:, NEW_ABOVE]}
