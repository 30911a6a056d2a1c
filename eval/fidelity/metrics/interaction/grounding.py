"""M5, grounding acts of the person: the rate of each, and which act follows which act of the assistant.

The rules are those of `eval.fidelity.metrics.interaction.user_acts`; every conversation weighs the same, whatever its
number of turns. The distance is the total variation, half the sum of the absolute differences: the share of turns
that would have to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from eval.fidelity.metrics.interaction.tallies import (
    RatePair,
    Tallies,
    bars,
    measured,
    measured_pair,
    split_pair,
    weighted_mean,
    without_empty,
)
from eval.fidelity.metrics.interaction.user_acts import USER_ACTS, user_act
from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.samples.events import ACT_LABELS, ASSISTANT_ACTS, REMEMBERED, exchanges
from eval.fidelity.samples.features import Sample
from usersim.stats.estimates import Draws, FigureSpec, Floats, Measured, Split
from usersim.types import Conversation

ROWS = ("any", *ASSISTANT_ACTS)
"""Acts of the assistant before the turn: any of them (the plain rates), or one."""
SHAPE = len(ROWS), len(USER_ACTS)


def tally(sample: Sample) -> Tallies:
    """Returns (N, cells) tallies: all acts of the person for each of `ROWS`."""
    return Tallies.of([_cells(conversation) for conversation in sample.conversations])


@lru_cache(maxsize=REMEMBERED)
def _cells(conversation: Conversation) -> tuple[Floats, Floats]:
    hits, trials = np.zeros(SHAPE), np.zeros(SHAPE)
    answered = [exchange for exchange in exchanges(conversation) if exchange.reply is not None]
    for exchange in answered:
        rows = [0, *(row for row, act in enumerate(ASSISTANT_ACTS, start=1) if act in exchange.acts)]
        trials[rows] += 1 / len(answered)
        hits[rows, USER_ACTS.index(user_act(exchange))] += 1 / len(answered)
    return hits.ravel(), trials.ravel()


class Grounding:
    """Total variation of the rates, and of the transitions after each act of the assistant, weighted by how often
    humans met it."""

    @property
    def specs(self) -> list[FigureSpec]:
        return [
            FigureSpec(
                key=key, metric="M5", label=label, unit="total variation of the person's acts", most=1.0
            )
            for key, label in (
                ("grounding.rates", "grounding acts"),
                ("grounding.transitions", "grounding acts by what the assistant did"),
            )
        ]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        tallies = tally(pool)
        return _metrics(split_pair(tallies, splits), _human_mass(tallies))

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        return measured(
            _metrics(measured_pair(tally(simulated), tally(human), draws), _human_mass(tally(pool)))
        )

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> list[Curve]:
        sides, labels = (tally(simulated), tally(human)), ("anything", *ACT_LABELS.values())
        return without_empty(
            [
                bars(
                    f"grounding.{row}",
                    f"what the person does after the assistant {labels[index]}"
                    if index
                    else "grounding acts of the person",
                    USER_ACTS,
                    sides,
                    range(index * len(USER_ACTS), (index + 1) * len(USER_ACTS)),
                    draws,
                )
                for index, row in enumerate(ROWS)
            ]
        )


def _human_mass(tallies: Tallies) -> Floats:
    """Returns the (acts,) share of each act of the assistant in the humans' exchanges."""
    share: Floats = tallies.trials_NK.sum(0).reshape(SHAPE)[1:, 0]
    return share


def _metrics(pair: RatePair, met_A: Floats) -> dict[str, Floats]:
    variation_RA = np.abs(pair.first_RK - pair.second_RK).reshape(-1, *SHAPE).sum(2) / 2
    # All of the person's acts are known after an act of the assistant, or none is.
    known_RA = pair.known_RK.reshape(-1, *SHAPE)[:, :, 0]
    return {
        "grounding.rates": np.where(known_RA[:, 0], variation_RA[:, 0], np.nan),
        "grounding.transitions": weighted_mean(variation_RA[:, 1:], known_RA[:, 1:], met_A),
    }
