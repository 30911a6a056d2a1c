"""M5, goal disclosure: share of a goal's facets that the person has said by user turn 1, 2, ….

A facet counts as said from the turn at which `DISCLOSED_SHARE` of its content words have occurred in the person's
turns. Against the turns that annotators named (211 conversations of ShareGPT and Chatbot Arena, dev split, 690
facets) "said by this turn" has F1 0.94; sentence embeddings at their best threshold have 0.93. A facet of an
unrelated goal counts as said in 1 % of conversations. A facet said entirely in other words is missed, on either side.

Goals that were written from the human conversations hold what these people said: they say nearly all of it, and no
simulator has to. There the metric compares simulators with each other, not with people.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.fidelity.metrics.interaction.tallies import (
    RatePair,
    Tallies,
    course,
    measured,
    measured_pair,
    split_pair,
    without_empty,
)
from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.metrics.texts.lexical import stems
from eval.fidelity.samples.events import is_english
from eval.fidelity.samples.features import Sample, user_texts
from usersim.stats.estimates import Draws, FigureSpec, Floats, Measured, Split
from usersim.types import Conversation

DISCLOSED_SHARE = 0.4
TURNS = 8


def disclosed(conversation: Conversation) -> Floats | None:
    """Returns the (TURNS,) share of facets said by each user turn; a conversation that is over keeps its last value.
    None without facets, and where the person does not write English."""
    goal = conversation.profile.goal
    facets = [words for facet in (goal.facets if goal else ()) if (words := stems(facet.text))]
    if not facets or not is_english(conversation):
        return None
    said_stems: set[str] = set()
    shares = []
    for text in user_texts(conversation)[:TURNS]:
        said_stems |= stems(text)
        shares.append(
            sum(len(facet & said_stems) >= DISCLOSED_SHARE * len(facet) for facet in facets) / len(facets)
        )
    return np.array(shares + shares[-1:] * (TURNS - len(shares)))


def tally(sample: Sample) -> Tallies:
    """Returns (N, TURNS) tallies; every conversation with facets weighs the same."""
    hits, trials = (np.zeros((len(sample), TURNS)) for _ in range(2))
    for index, conversation in enumerate(sample.conversations):
        shares = disclosed(conversation)
        if shares is not None:
            hits[index], trials[index] = shares, 1
    return Tallies(hits, trials)


class FacetDisclosure:
    """The area between the disclosure curves (headline); the first turn and the end alone show the direction."""

    @property
    def specs(self) -> list[FigureSpec]:
        unit = "difference in the share of facets said"
        return [
            FigureSpec(
                key="disclosure.curve",
                metric="M5",
                label="how the goal comes out",
                unit=f"mean {unit}, turns 1 to {TURNS}",
                most=1.0,
            ),
            *(
                FigureSpec(key=key, metric="M5", label=label, unit=unit, headline=False, most=1.0)
                for key, label in (
                    ("disclosure.first", "facets in the first turn"),
                    ("disclosure.end", f"facets by turn {TURNS}"),
                )
            ),
        ]

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        return _metrics(split_pair(tally(pool), splits))

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        return measured(_metrics(measured_pair(tally(simulated), tally(human), draws)))

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> list[Curve]:
        sides = tally(simulated), tally(human)
        return without_empty(
            [
                course(
                    "disclosure", "how the goal comes out", "user turn", "share of facets said", sides, draws
                )
            ]
        )


def _metrics(pair: RatePair) -> dict[str, Floats]:
    gap_RT = np.where(pair.known_RK, np.abs(pair.first_RK - pair.second_RK), np.nan)
    # All turns are known or none is: a conversation with facets has a share at every turn.
    return {
        "disclosure.curve": gap_RT.mean(1),
        "disclosure.first": gap_RT[:, 0],
        "disclosure.end": gap_RT[:, -1],
    }
