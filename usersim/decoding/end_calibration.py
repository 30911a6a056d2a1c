"""Calibration of P(end of conversation) after training, on where people ended: logistic regression with turn terms.

A model's P(end) is trained on a mixture of conditions and a share of openings, so that its level and its spread are
biased. `fit` estimates four parameters on dev, `userlm.json` stores them, and they are applied to every P(end).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from usersim.types import Record

CLIP = 1e-6
RIDGE = 1.0
"""L2 penalty towards the identity, weak against a hundred conversations."""


class Calibration(Record):
    """Calibration: logit P'(end) = slope · logit P(end) + bias + log_turns · ln(user turns) + first (after one turn
    only)."""

    slope: float = 1.0
    bias: float = 0.0
    log_turns: float = 0.0
    first: float = 0.0

    def __call__(self, probability: float, *, user_turns: int) -> float:
        """Returns P'(end) after `user_turns` user turns (0 counts as 1)."""
        weights = (self.slope, self.bias, self.log_turns, self.first)
        logit = sum(w * term for w, term in zip(weights, _terms(probability, user_turns), strict=True))
        return 1 / (1 + math.exp(-min(50.0, max(-50.0, logit))))


@dataclass(frozen=True)
class Decision:
    """Point of a conversation where a person left or continued."""

    end_probability: float
    """Raw P(end) of the model."""
    user_turns: int
    """Number of user turns so far."""
    left: bool


def fit(decisions: Sequence[Decision]) -> Calibration:
    """Fits a calibration by penalised maximum likelihood.

    Returns the identity if all people left or all continued.
    """
    import numpy as np  # not needed to read and apply a `Calibration`

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
        # A full Newton step overshoots where the curve is flat.
        size = next((s for s in 0.5 ** np.arange(40) if cost(weights - s * step) < cost(weights)), 0.0)
        weights -= size * step
        if float(np.abs(size * step).max()) < 1e-8:
            break
    names = ("slope", "bias", "log_turns", "first")
    return Calibration(**{name: round(float(value), 4) for name, value in zip(names, weights, strict=True)})


def brier(decisions: Sequence[Decision], calibration: Calibration | None = None) -> float:
    """Returns the Brier score (mean squared error) of P(end), calibrated if `calibration` is given."""
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
