"""M5, lexical entrainment: whether people take up the words of the answer they reply to.

Overlap is the share of a reply's content words that the previous answer has. The overlap by chance, with answers to
*other* people, is subtracted. English words are without stop words and endings; other languages with spaces use plain
words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.fidelity.metrics.interaction.tallies import (
    RatePair,
    Tallies,
    bars,
    measured,
    measured_pair,
    split_pair,
    without_empty,
)
from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.metrics.texts.lexical import stems
from eval.fidelity.samples.features import Sample
from usersim.stats.estimates import Draws, FigureSpec, Floats, Measured, Split, rng_for
from usersim.types import Conversation

SHUFFLES = 5
"""Answers of other conversations that every reply is compared with."""
COLUMNS = (
    "to the answer",
    "of it, words new to the person",
    "to other people's answers",
    "above chance",
    "new above chance",
)
ABOVE, NEW_ABOVE = 3, 4
Reply = tuple[frozenset[str], frozenset[str], frozenset[str]]
"""Content words of a reply; those that the person had not used before; those of the answer."""


def replies(conversation: Conversation) -> list[Reply]:
    """Returns the replies of a conversation: user turns after an answer, with content words."""
    reply_list: list[Reply] = []
    earlier_stems: frozenset[str] = frozenset()
    for index, turn in enumerate(conversation.turns):
        if turn.role == "user":
            own = stems(turn.text)
            if earlier_stems and own and index:
                reply_list.append((own, own - earlier_stems, stems(conversation.turns[index - 1].text)))
            earlier_stems |= own
    return reply_list


def overlap(own: frozenset[str], answer: frozenset[str], among: frozenset[str]) -> float:
    """Returns the share of `own` that is in both `among` and the answer."""
    return len(among & answer) / len(own)


@dataclass(frozen=True)
class Entrainment:
    """Difference of the mean overlap above chance; the second metric counts only words that the person had not used
    before."""

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
        """Returns (N, COLUMNS) tallies; every conversation with a reply weighs the same."""
        rng = rng_for(self.seed, "entrainment")
        replies_by_conversation = [replies(conversation) for conversation in sample.conversations]
        owner = np.repeat(
            np.arange(len(replies_by_conversation)),
            [len(reply_list) for reply_list in replies_by_conversation],
        )
        answers = [answer for reply_list in replies_by_conversation for _, _, answer in reply_list]
        hits, trials = (np.zeros((len(sample), len(COLUMNS))) for _ in range(2))
        for index, reply_list in enumerate(replies_by_conversation):
            others = np.flatnonzero(owner != index)
            if not reply_list or not len(others):
                continue
            sampled_answers = rng.choice(others, size=(len(reply_list), SHUFFLES))
            rows = [
                _row(reply, [answers[other] for other in row])
                for reply, row in zip(reply_list, sampled_answers, strict=True)
            ]
            hits[index], trials[index] = np.mean(rows, axis=0), 1
        return Tallies(hits, trials)

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        pair = split_pair(self.tally(pool), splits)
        return _metrics(pair)

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        return measured(_metrics(measured_pair(self.tally(simulated), self.tally(human), draws)))

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> list[Curve]:
        return without_empty(
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
    overlap_share, new_share = overlap(own, answer, own), overlap(own, answer, new)
    chance, new_chance = (
        float(np.mean([overlap(own, other, among) for other in others])) for among in (own, new)
    )
    return [overlap_share, new_share, chance, overlap_share - chance, new_share - new_chance]


def _metrics(pair: RatePair) -> dict[str, Floats]:
    gap = np.where(pair.known_RK, np.abs(pair.first_RK - pair.second_RK), np.nan)
    return {"entrainment": gap[:, ABOVE], "entrainment.new": gap[:, NEW_ABOVE]}
