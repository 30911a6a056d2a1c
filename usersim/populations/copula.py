"""Gaussian copula over marginals with ties: latent correlations fitted to observed rank correlations.

The method is NORTA, "normal to anything" (Cario & Nelson 1997). Two normals with latent correlation r are mapped to
values through their marginals. The correlation r is chosen so that the values have the observed Spearman correlation,
with mid-ranks for ties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
DEGREE = 24
"""Highest term of the Hermite expansion."""
GRID = 2048
"""Number of points of the unit interval at which a marginal is evaluated."""
FEWEST_PAIRS = 30
"""Minimum number of people with both columns for a correlation of their own."""
MOST_CORRELATED = 0.98


def mid_ranks(values: Floats) -> Floats:
    """Returns ranks between 0 and 1, with mid-ranks for ties; NaN stays NaN."""
    ranks = np.full(len(values), np.nan)
    is_stated = np.isfinite(values)
    if is_stated.any():
        _, inverse, counts = np.unique(values[is_stated], return_inverse=True, return_counts=True)
        ranks[is_stated] = ((np.cumsum(counts) - counts / 2) / counts.sum())[inverse]
    return ranks


def latent_correlation(values_NC: Floats, prior_CC: Floats | None = None) -> Floats:
    """Returns the positive definite latent correlation matrix of columns with missing values (NaN).

    `prior_CC`: correlations for pairs with fewer than 30 people; default 0.
    """
    ranks_NC = np.column_stack([mid_ranks(column) for column in values_NC.T])
    terms_CK = np.stack([_hermite_terms(column) for column in ranks_NC.T])
    count = values_NC.shape[1]
    latent = np.eye(count) if prior_CC is None else prior_CC.copy()
    for first in range(count):
        for second in range(first):
            both = np.isfinite(ranks_NC[:, first]) & np.isfinite(ranks_NC[:, second])
            if both.sum() < FEWEST_PAIRS:
                continue
            target = correlation(ranks_NC[both, first], ranks_NC[both, second])
            fitted = _latent(terms_CK[first], terms_CK[second], target)
            latent[first, second] = latent[second, first] = fitted
    return positive_definite(latent)


def correlation(first: Floats, second: Floats) -> float:
    """Returns the Pearson correlation; 0 if one column does not vary."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def positive_definite(matrix: Floats, *, least: float = 0.01) -> Floats:
    """Returns the correlation matrix with eigenvalues raised to at least `least` and a diagonal of 1."""
    eigenvalues, vectors = np.linalg.eigh(matrix)
    raised = (vectors * np.maximum(eigenvalues, least)) @ vectors.T
    size = np.sqrt(np.diag(raised))
    scaled: Floats = raised / np.outer(size, size)
    return scaled


def _hermite_terms(ranks: Floats) -> Floats:
    """Returns Hermite coefficients 1 … `DEGREE` of standardised mid-ranks as a function of a standard normal."""
    ordered = np.sort(ranks[np.isfinite(ranks)])
    if not len(ordered) or np.ptp(ordered) == 0:
        return np.zeros(DEGREE)
    levels = (np.arange(GRID) + 0.5) / GRID
    normal = np.array([NormalDist().inv_cdf(level) for level in levels])
    mapped = ordered[(levels * len(ordered)).astype(int)]
    mapped = (mapped - mapped.mean()) / mapped.std()
    scales = np.array([math.sqrt(math.factorial(degree)) for degree in range(1, DEGREE + 1)])
    basis_GK = np.polynomial.hermite_e.hermevander(normal, DEGREE)[:, 1:] / scales
    terms: Floats = mapped @ basis_GK / GRID
    return terms


def _latent(first: Floats, second: Floats, target: float) -> float:
    if target == 0:
        return 0.0
    grid = np.linspace(-MOST_CORRELATED, MOST_CORRELATED, 393)
    powers_RK = grid[:, None] ** np.arange(1, DEGREE + 1)
    reached = np.maximum.accumulate(powers_RK @ (first * second))
    return float(np.interp(target, reached, grid)) if reached[-1] > reached[0] else 0.0


def lower_triangle(matrix: Floats) -> tuple[float, ...]:
    """Returns the entries below the diagonal, row by row, rounded to three decimals."""
    rows: Sequence[Sequence[float]] = matrix.tolist()
    return tuple(round(value, 3) for index, row in enumerate(rows) for value in row[:index])
