"""M5: what the person does after the assistant asks, refuses, errs or offers a choice.

A cell is P(the reply has an attribute | the answer did something), by the rules of
`eval.fidelity.samples.events`. Every conversation weighs the same: its exchanges share a mass of one. A
rule-based instrument, the same for humans and
simulators; only English conversations are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from eval.fidelity.metrics.interaction.tallies import (
    Pair,
    Tallies,
    bars,
    measured,
    measured_pair,
    split_pair,
    weighted_mean,
    with_something,
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
    """One thing that a person may do after an answer."""

    key: str
    label: str
    holds: Callable[[Exchange], bool | None] = field(repr=False)
    """None: not known of this exchange."""


def _of_reply(test: Callable[[str], bool]) -> Callable[[Exchange], bool | None]:
    return lambda exchange: None if exchange.reply is None else test(exchange.reply)


RESPONSES: tuple[Response, ...] = (
    Response("leaves", "leaves", lambda exchange: exchange.left),
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
    """(N, cells): for each act of the assistant all the responses."""
    return Tallies.of([_cells(conversation) for conversation in sample.conversations])


@lru_cache(maxsize=REMEMBERED)
def _cells(conversation: Conversation) -> tuple[Floats, Floats]:
    hits, trials = np.zeros(SHAPE), np.zeros(SHAPE)
    found = exchanges(conversation)
    for exchange in found:
        acts = [row for row, act in enumerate(ASSISTANT_ACTS) if act in exchange.acts]
        for column, response in enumerate(RESPONSES):
            held = response.holds(exchange)
            if held is not None:
                trials[acts, column] += 1 / len(found)
                hits[acts, column] += held / len(found)
    return hits.ravel(), trials.ravel()


class Dynamics:
    """Mean |difference| of the cells: over the special acts, weighted by how often humans met them (headline), per
    act, and of the contrast with a plain answer, which a simulator that ignores the act has as zero."""

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
        return _figures(split_pair(tallies, splits), _met(tallies))

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        return measured(_figures(measured_pair(tally(simulated), tally(human), draws), _met(tally(pool))))

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> list[Curve]:
        sides, names = (tally(simulated), tally(human)), [response.label for response in RESPONSES]
        return with_something(
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


def _met(tallies: Tallies) -> Floats:
    """Of the cells of special acts: the humans' exchanges behind each."""
    met: Floats = tallies.trials_NK.sum(0).reshape(SHAPE)[:-1].ravel()
    return met


def _figures(pair: Pair, met_K: Floats) -> dict[str, Floats]:
    first, second = (side.reshape(-1, *SHAPE) for side in (pair.first_RK, pair.second_RK))
    known = pair.known_RK.reshape(-1, *SHAPE)
    gap = np.abs(first - second)[:, :-1]
    contrast = np.abs((first - first[:, -1:]) - (second - second[:, -1:]))[:, :-1]
    both = known[:, :-1] & known[:, -1:]
    rows = len(gap)
    figures = {
        "dynamics": weighted_mean(gap.reshape(rows, -1), known[:, :-1].reshape(rows, -1), met_K),
        "dynamics.contrast": weighted_mean(contrast.reshape(rows, -1), both.reshape(rows, -1), met_K),
    }
    equal = np.ones(len(RESPONSES))
    for row, act in enumerate(SPECIAL):
        figures[f"dynamics.{act}"] = weighted_mean(gap[:, row], known[:, row], equal)
    return figures
