"""Logistic regressions of leaving: features and folds of the baselines, losses, and calibration of P(end)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.stats import t as student_t  # type: ignore[import-untyped]
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from eval.next_turn.metrics.values import (
    ClusterSums,
    Values,
    estimate,
    standard_error,
)
from eval.next_turn.prefixes import Prefix
from usersim.stats.estimates import Estimate, Floats, Ints, rng_for
from usersim.types import Record

CLIP = 0.001
"""P(end) is clipped to [0.001, 0.999] before logarithms, for baselines too."""
TURNS = (2, 3, 4, 5, 6, 8, 11)
"""First user turn of each class of the hazard by turn number."""
REMAINING = (-3, -2, -1, 0, 1, 2, 3, 5)
"""First value of each class of facets minus user turns so far; values below the first form one more class."""
FOLDS = 10
BINS = 10


class CalibrationBin(Record):
    predicted: float
    """Mean P(end)."""
    observed: Estimate
    """Share of people who left."""
    prefixes: int


class LeavingCalibration(Record):
    """Calibration regression: logit P(person leaves) = intercept + slope · logit P(end); the ideal is 0 and 1."""

    slope: Estimate | None
    intercept: Estimate | None
    bins: tuple[CalibrationBin, ...]
    """Deciles of the prefixes by P(end); equal probabilities stay together."""
    undefined: str | None = None
    """Reason why slope and intercept are missing."""


@cache
def blas_threads() -> ThreadpoolController:
    """Controller of BLAS threads; more than one thread slows down such small matrix products."""
    return ThreadpoolController()


def brier_losses(end_P: Floats, left_P: Floats) -> Floats:
    loss: Floats = (end_P - left_P) ** 2
    return loss


def log_losses(end_P: Floats, left_P: Floats) -> Floats:
    clipped = np.clip(end_P, CLIP, 1 - CLIP)
    loss: Floats = -np.where(left_P > 0, np.log(clipped), np.log1p(-clipped))
    return loss


def logits_of(end_P: Floats) -> Floats:
    clipped = np.clip(end_P, CLIP, 1 - CLIP)
    logit: Floats = np.log(clipped) - np.log1p(-clipped)
    return logit


def source_interactions(source_PS: Floats, features_PF: Floats) -> Floats:
    """Features shared by all sources, then those of each source; the penalty shrinks a source to the shared ones."""
    own = [features_PF * source_PS[:, [index]] for index in range(source_PS.shape[1])]
    return np.hstack([features_PF, *own])


def has_facets(prefix: Prefix) -> bool:
    return prefix.goal is not None and bool(prefix.goal.facets)


def facets_left(prefix: Prefix) -> int:
    facets = prefix.goal.facets if prefix.goal else ()
    return len(facets) - (prefix.position - 1)


def class_index(value: int, starts: Sequence[int]) -> int:
    return int(np.searchsorted(starts, value, side="right"))


def one_hot(classes: Sequence[int], count: int) -> Floats:
    return np.eye(count)[np.asarray(classes, dtype=np.int64)]


def fold_of_clusters(clusters: Sequence[str], seed: int) -> Ints:
    """Fold of each prefix; the folds have equally many clusters."""
    names, owner = np.unique(np.asarray(clusters, dtype=object).astype(str), return_inverse=True)
    order = rng_for(seed, "leaving folds").permutation(len(names))
    return np.asarray(order[owner] % min(FOLDS, max(len(names), 2)), dtype=np.int64)


def clustered_logistic(
    x_P: Floats, left_P: Floats, clusters: Sequence[str]
) -> tuple[Estimate, Estimate] | None:
    """(intercept, slope) by maximum likelihood, with cluster-robust (sandwich) intervals; None without a maximum."""
    if len(np.unique(left_P)) < 2 or np.ptp(x_P) < 1e-6:
        return None
    design_P2, beta_2 = np.column_stack([np.ones_like(x_P), x_P]), np.zeros(2)
    for _ in range(50):
        fitted_P = 1 / (1 + np.exp(-np.clip(design_P2 @ beta_2, -30, 30)))
        gradient_2 = design_P2.T @ (left_P - fitted_P)
        hessian_22 = (design_P2 * (fitted_P * (1 - fitted_P))[:, None]).T @ design_P2
        if np.linalg.cond(hessian_22) > 1e10:
            return None
        step_2 = np.linalg.solve(hessian_22, gradient_2)
        beta_2 = beta_2 + np.clip(step_2, -2, 2)
        if np.abs(step_2).max() < 1e-9:
            break
    else:
        return None
    _, owner = np.unique(np.asarray(clusters), return_inverse=True)
    scores_C2 = np.zeros((int(owner.max()) + 1, 2))
    np.add.at(scores_C2, owner, design_P2 * (left_P - fitted_P)[:, None])
    influence_C2 = scores_C2 @ np.linalg.inv(hessian_22)
    count = len(scores_C2)
    quantile = float(student_t.ppf(0.975, max(count - 1, 1)))
    halves = [quantile * standard_error(influence_C2[:, i], count) for i in (0, 1)]
    intercept, slope = (
        Estimate(value=float(b), low=float(b - h), high=float(b + h), n=count)
        for b, h in zip(beta_2, halves, strict=True)
    )
    return intercept, slope


def reliability_bins(end_P: Floats, left_P: Floats, clusters: Sequence[str]) -> tuple[CalibrationBin, ...]:
    edges = np.unique(np.quantile(end_P, np.linspace(0, 1, BINS + 1)[1:-1]))
    number_P = np.searchsorted(edges, end_P, side="left")
    bins = []
    for number in np.unique(number_P):
        mask_P = number_P == number
        values = Values(left_P, np.ones(len(left_P))).at(mask_P)
        observed = estimate(ClusterSums.of(values, clusters), is_share=True)
        predicted = float(end_P[mask_P].mean())
        bins.append(CalibrationBin(predicted=predicted, observed=observed, prefixes=int(mask_P.sum())))
    return tuple(bins)
