"""Kendall's τ-b, sign agreement of pairs, decision regret: of two rankings, or of many resamples at once."""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from usersim.stats.estimates import Floats, Ints

LEAST_SCORES = 5


def tau_b(first_K: Floats, second_K: Floats) -> float:
    """Kendall's τ-b (scipy); NaN where one side is constant."""
    return float(kendalltau(first_K, second_K, variant="b").statistic)


def tau_rows(first_BK: Floats, second_BK: Floats) -> Floats:
    """(B,) `tau_b` of every row; pairs with a NaN on either side are left out."""
    one, two = _pair_signs(first_BK, second_BK)
    with np.errstate(invalid="ignore"):
        taus: Floats = (one * two).sum(1) / np.sqrt(np.abs(one).sum(1) * np.abs(two).sum(1))
    return taus


def agreement_rows(simulated_BK: Floats, human_BK: Floats) -> Floats:
    """(B,) share of the pairs that differ for people which differ the same way in simulation; a tie is half."""
    said, true = _pair_signs(simulated_BK, human_BK)
    with np.errstate(invalid="ignore"):
        shares: Floats = ((said * true + 1) / 2 * np.abs(true)).sum(1) / np.abs(true).sum(1)
    return shares


def regret_rows(simulated_BK: Floats, human_BK: Floats) -> Floats:
    """(B,) best human mean minus that of the assistant chosen by simulation, averaged over those tied for it.

    The best of several noisy means is too high, so this is an upper bound in expectation.
    """
    known = ~(np.isnan(simulated_BK) | np.isnan(human_BK))
    human = np.where(known, human_BK, np.nan)
    said = np.where(known, simulated_BK, -np.inf)
    chosen = known & (said == said.max(1, keepdims=True))
    best = np.where(known, human, -np.inf).max(1)
    got: Floats = np.where(chosen, human, 0).sum(1) / chosen.sum(1)
    return np.asarray(best - got)


def _pair_signs(first_BK: Floats, second_BK: Floats) -> tuple[Floats, Floats]:
    """(B, pairs) each: -1, 0, 1; 0 on both sides where either is unknown."""
    i, j = np.triu_indices(first_BK.shape[1], 1)
    one = np.sign(first_BK[:, i] - first_BK[:, j])
    two = np.sign(second_BK[:, i] - second_BK[:, j])
    unknown = np.isnan(one) | np.isnan(two)
    return np.where(unknown, 0, one), np.where(unknown, 0, two)


def resolved_pairs(means_BK: Floats, sizes_K: Ints) -> tuple[Ints, Ints]:
    """Pairs (i, j) whose difference has a 95 % interval without 0, uncorrected for their number.

    A resample of very few scores hardly varies, so both need `LEAST_SCORES`.
    """
    i, j = np.triu_indices(means_BK.shape[1], 1)
    low, high = np.nanquantile(means_BK[:, i] - means_BK[:, j], [0.025, 0.975], axis=0)
    apart = ((low > 0) | (high < 0)) & (np.minimum(sizes_K[i], sizes_K[j]) >= LEAST_SCORES)
    return i[apart], j[apart]
