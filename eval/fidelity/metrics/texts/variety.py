"""Arithmetic of M4: variety of a set of texts under weights (counts of a resample or of a half)."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln  # type: ignore[import-untyped]

from usersim.stats.estimates import Floats

NOTHING = 1e-12
"""Eigenvalues up to this are rounding errors."""


def rarefied(counts_U: Floats, budget: float) -> float:
    """Returns the expected number of different kinds among `budget` items drawn without replacement, from the count of
    each kind. It is the mean over all truncations to the budget (Hurlbert 1971, eq. 14). `budget` is at most the sum
    of the counts."""
    sizes, kinds = np.unique(counts_U[counts_U > 0], return_counts=True)
    total = float((sizes * kinds).sum())
    left = total - sizes - budget
    # P(a kind of this size is missed) = C(total - size, budget) / C(total, budget)
    log_missed = gammaln(total - sizes + 1) - gammaln(np.maximum(left, 0) + 1)
    log_all = gammaln(total + 1) - gammaln(total - budget + 1)
    missed = np.where(left >= 0, np.exp(log_missed - log_all), 0.0)
    return float((kinds * (1 - missed)).sum())


def vendi(similar_NN: Floats) -> float:
    """Returns the Vendi score (Friedman & Dieng 2023, definition 3.1): exp of the entropy of the eigenvalues of K/n,
    where K has ones on its diagonal. It is the effective number of different items, 1 (all alike) to n (nothing in
    common)."""
    return float(np.exp(log_vendi(similar_NN, np.ones((1, len(similar_NN))))[0]))


def log_vendi(similar_NN: Floats, weights_RN: Floats) -> Floats:
    """Returns the log of the score of √p K √p, p the normalised weights (ibid., equation 7), one weighting a row."""
    spectra = (np.linalg.eigvalsh(_weighted(similar_NN, row)).astype(np.float64) for row in weights_RN)
    return np.array([_entropy(values) for values in spectra])


def log_vendi_near(similar_NN: Floats, weights_RN: Floats) -> Floats:
    """Returns the log score to first order about equal weights, from a single decomposition: cheap enough for a
    bootstrap.

    The entropy -tr(M log M), M = Σ pᵢ xᵢxᵢᵀ, has the derivative -xᵢᵀ(log M)xᵢ - 1 by pᵢ; the pᵢ add up to one, so the
    constant vanishes. Exact where all weights are equal.
    """
    n = len(similar_NN)
    values, vectors = np.linalg.eigh(similar_NN / n)
    is_positive = values > NOTHING
    slope_N = -n * (vectors[:, is_positive] ** 2) @ (values[is_positive] * np.log(values[is_positive]))
    shares_RN = weights_RN / weights_RN.sum(1, keepdims=True)
    scores: Floats = _entropy(values) + (shares_RN - 1 / n) @ slope_N
    return scores


def mean_similarity(similar_NN: Floats, weights_RN: Floats) -> Floats:
    """Returns the mean of K over all pairs, one weighting a row; NaN without a pair. An item and its own copy are no
    pair."""
    pairs = weights_RN.sum(1) ** 2 - (weights_RN**2).sum(1)
    total = ((weights_RN @ similar_NN) * weights_RN).sum(1) - weights_RN**2 @ np.diag(similar_NN)
    mean: Floats = np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return mean


def _weighted(similar_NN: Floats, weights_N: Floats) -> Floats:
    positive_indices = np.flatnonzero(weights_N)
    root = np.sqrt(weights_N[positive_indices] / weights_N.sum())
    scaled: Floats = similar_NN[np.ix_(positive_indices, positive_indices)] * root[:, None] * root
    return scaled


def _entropy(values: Floats) -> float:
    positive_values = values[values > NOTHING]
    return float(-(positive_values * np.log(positive_values)).sum())
