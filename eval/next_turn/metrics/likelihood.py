"""Likelihood of people's turns under a User LM with accessible weights, in bits per character."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from eval.fidelity.samples.matching import person_of
from eval.likelihood.likelihood import Scorer
from eval.next_turn.metrics.values import ClusterSums, Values, estimate
from usersim.stats.estimates import Estimate
from usersim.types import Conversation, UserProfile


def bits_per_character(
    scorer: Scorer, people: Sequence[Conversation], done: Callable[[], None] | None = None
) -> Estimate:
    """Σ bits / Σ characters of people's turns under their own goals, as the model renders and shortens them.

    Args:
        scorer: Scorer of the model.
        people: Conversations that the model was not trained on.
        done: Called after every conversation.
    """
    bits: list[float] = []
    characters: list[float] = []
    clusters: list[str] = []
    for conversation in people:
        score = scorer.score(conversation, UserProfile(goal=conversation.profile.goal))
        bits += [turn.nats / math.log(2) for turn in score.turns]
        characters += [float(turn.characters) for turn in score.turns]
        clusters += [person_of(conversation)] * len(score.turns)
        if done:
            done()
    return estimate(ClusterSums.of(Values(np.array(bits), np.array(characters)), clusters))
