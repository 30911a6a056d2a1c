"""M5: the person's reaction after the assistant asks, refuses, errs or offers a choice.

A cell is P(the reply has an attribute | the answer had an act), by the rules of `eval.fidelity.samples.events`. Every
conversation weighs the same: its exchanges share a mass of one. The rules are the same for humans and simulators;
only English conversations are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.samples.events import ACT_LABELS, ASSISTANT_ACTS, REMEMBERED, Exchange, exchanges
from eval.fidelity.samples.features import Sample
from usersim.stats.estimates import Draws, FigureSpec, Floats, Measured, Split
from usersim.text import style
from usersim.text.user_acts import is_order, is_pushback
from usersim.types import Conversation

LONG_WORDS, SHORT_WORDS = 30, 3


@dataclass(frozen=True)
class Response:
    """One possible reaction to an answer."""

    key: str
    label: str
    holds: Callable[[Exchange], bool | None] = field(repr=False)
    """None: unknown for this exchange."""


def _of_reply(test: Callable[[str], bool]) -> Callable[[Exchange], bool | None]:
    return lambda exchange: None if exchange.reply is None else test(exchange.reply)


RESPONSES: tuple[Response, ...] = (
    Response("leaves", "leaves", lambda exchange: exchange.is_left),
    Response("objects", "objects", _of_reply(is_pushback)),
    Response("asks", "asks a question", _of_reply(style.is_question)),
    Response("orders", "gives an order", _of_reply(is_order)),
    Response("polite", "please, thanks, sorry", _of_reply(style.is_polite)),
    Response(
        "short", f"at most {SHORT_WORDS} words", _of_reply(lambda t: style.count_words(t) <= SHORT_WORDS)
    ),
    Response("long", f"at least {LONG_WORDS} words", _of_reply(lambda t: style.count_words(t) >= LONG_WORDS)),
)
SPECIAL = ASSISTANT_ACTS[:4]
SHAPE = len(ASSISTANT_ACTS), len(RESPONSES)


def tally(sample: Sample) -> Tallies:
    """Returns (N, cells) tallies: all responses for each act of the assistant."""
    return Tallies.of([_cells(conversation) for conversation in sample.conversations])


@lru_cache(maxsize=REMEMBERED)
def _cells(conversation: Conversation) -> tuple[Floats, Floats]:
    hits, trials = np.zeros(SHAPE), np.zeros(SHAPE)
    exchange_list = exchanges(conversation)
    for exchange in exchange_list:
        acts = [row for row, act in enumerate(ASSISTANT_ACTS) if act in exchange.acts]
        for column, response in enumerate(RESPONSES):
            is_held = response.holds(exchange)
            if is_held is not None:
                trials[acts, column] += 1 / len(exchange_list)
                hits[acts, column] += is_held / len(exchange_list)
    return hits.ravel(), trials.ravel()


class Dynamics:
    """Mean |difference| of the cells.

    The headline metric averages over the special acts, weighted by how often humans met them. Further metrics are per
    act, and of the contrast with a plain answer, which is zero for a simulator that ignores the act.
    """

    @property
    def specs(self) -> list[FigureSpec]:
        unit = "mean difference of shares"
        return [
            FigureSpec(key="dynamics", metric="M5", label="reactions to the assistant", unit=unit, most=1.0),
            FigureSpec(
                key="dynamics.contrast",
                metric="M5",
                label="reactions, against those to a plain answer",
                unit="mean difference of differences of shares",
                headline=False,
                most=2.0,
            ),
            *(
                FigureSpec(
                    key=f"dynamics.{act}",
                    metric="M5",
                    label=f"after the assistant {ACT_LABELS[act]}",
                    unit=unit,
                    headline=False,
                    most=1.0,
                )
                for act in SPECIAL
            ),
        ]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        tallies = tally(pool)
        return _metrics(split_pair(tallies, splits), _human_mass(tallies))

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        return measured(
            _metrics(measured_pair(tally(simulated), tally(human), draws), _human_mass(tally(pool)))
        )

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> list[Curve]:
        sides, names = (tally(simulated), tally(human)), [response.label for response in RESPONSES]
        return without_empty(
            [
                bars(
                    f"dynamics.{act}",
                    f"what people do after the assistant {ACT_LABELS[act]}",
                    names,
                    sides,
                    range(row * len(RESPONSES), (row + 1) * len(RESPONSES)),
                    draws,
                )
                for row, act in enumerate(ASSISTANT_ACTS)
            ]
        )


def _human_mass(tallies: Tallies) -> Floats:
    """Returns the humans' exchanges behind each cell of the special acts."""
    mass: Floats = tallies.trials_NK.sum(0).reshape(SHAPE)[:-1].ravel()
    return mass


def _metrics(pair: RatePair, met_K: Floats) -> dict[str, Floats]:
    first, second = (side.reshape(-1, *SHAPE) for side in (pair.first_RK, pair.second_RK))
    is_known = pair.known_RK.reshape(-1, *SHAPE)
    gap = np.abs(first - second)[:, :-1]
    contrast = np.abs((first - first[:, -1:]) - (second - second[:, -1:]))[:, :-1]
    both_known = is_known[:, :-1] & is_known[:, -1:]
    rows = len(gap)
    metrics = {
        "dynamics": weighted_mean(gap.reshape(rows, -1), is_known[:, :-1].reshape(rows, -1), met_K),
        "dynamics.contrast": weighted_mean(contrast.reshape(rows, -1), both_known.reshape(rows, -1), met_K),
    }
    equal = np.ones(len(RESPONSES))
    for row, act in enumerate(SPECIAL):
        metrics[f"dynamics.{act}"] = weighted_mean(gap[:, row], is_known[:, row], equal)
    return metrics
