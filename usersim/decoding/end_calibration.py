"""P(end of conversation) put right after training, on people's own ends: a logistic curve with turn terms.

What a model says of leaving is trained on a mixture of conditions and a share of openings, so that its level and its
spread are off. `fit` finds four numbers on dev; `userlm.json` keeps them; every P(end) goes through them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from usersim.types import Record

CLIP = 1e-6
RIDGE = 1.0
"""Pull of each term towards leaving P(end) as it is, in squared units: a hundred conversations overrule it."""


class Calibration(Record):
    """logit P'(end) = slope · logit P(end) + bias + log_turns · ln(user turns) + first (after one turn only)."""

    slope: float = 1.0
    bias: float = 0.0
    log_turns: float = 0.0
    first: float = 0.0

    def __call__(self, probability: float, *, user_turns: int) -> float:
        """P'(end) where the person has said `user_turns` turns (none counts as one)."""
        weights = (self.slope, self.bias, self.log_turns, self.first)
        logit = sum(w * term for w, term in zip(weights, _terms(probability, user_turns), strict=True))
        return 1 / (1 + math.exp(-min(50.0, max(-50.0, logit))))


@dataclass(frozen=True)
class Decision:
    """A place where a person left or went on."""

    end_probability: float
    """As the model says, not calibrated."""
    user_turns: int
    """User turns so far."""
    left: bool


def fit(decisions: Sequence[Decision]) -> Calibration:
    """The likeliest curve, pulled towards no change; that itself where people only left, or only went on."""
    import numpy as np  # not for a `Calibration` that is read and used

    left = np.array([decision.left for decision in decisions], dtype=np.float64)
    if not len(left) or left.min() == left.max():
        return Calibration()
    terms = np.array([_terms(decision.end_probability, decision.user_turns) for decision in decisions])
    neutral = np.array([1.0, 0.0, 0.0, 0.0])

    def cost(weights: Any) -> float:
        logits = terms @ weights
        nats = np.logaddexp(0, logits) - left * logits
        return float(nats.sum() + RIDGE / 2 * np.square(weights - neutral).sum())

    weights = neutral.copy()
    for _ in range(100):
        share = 1 / (1 + np.exp(-np.clip(terms @ weights, -50, 50)))
        gradient = terms.T @ (share - left) + RIDGE * (weights - neutral)
        curvature = (terms * (share * (1 - share))[:, None]).T @ terms + RIDGE * np.eye(4)
        step = np.linalg.solve(curvature, gradient)
        # A full step of Newton's overshoots where the curve is flat.
        size = next((s for s in 0.5 ** np.arange(40) if cost(weights - s * step) < cost(weights)), 0.0)
        weights -= size * step
        if float(np.abs(size * step).max()) < 1e-8:
            break
    names = ("slope", "bias", "log_turns", "first")
    return Calibration(**{name: round(float(value), 4) for name, value in zip(names, weights, strict=True)})


def brier(decisions: Sequence[Decision], calibration: Calibration | None = None) -> float:
    """Mean squared error of P(end), calibrated or as it is."""
    total = 0.0
    for decision in decisions:
        probability = decision.end_probability
        if calibration is not None:
            probability = calibration(probability, user_turns=decision.user_turns)
        total += (probability - decision.left) ** 2
    return total / len(decisions)


def _terms(probability: float, user_turns: int) -> list[float]:
    clipped, turns = min(1 - CLIP, max(CLIP, probability)), max(1, user_turns)
    return [math.log(clipped / (1 - clipped)), 1.0, math.log(turns), float(turns == 1)]
