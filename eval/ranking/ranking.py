"""Rank statistics: Kendall's τ-b, sign agreement of pairs, decision regret; of two rankings, or of many resamples at
once."""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from usersim.stats.estimates import Floats, Ints

LEAST_SCORES = 5


def tau_b(first_K: Floats, second_K: Floats) -> float:
    """Returns Kendall's τ-b (scipy); NaN where one side is constant."""
    return float(kendalltau(first_K, second_K, variant="b").statistic)


def tau_rows(first_BK: Floats, second_BK: Floats) -> Floats:
    """Returns (B,) `tau_b` of every row; pairs with a NaN on either side are left out."""
    first_signs, second_signs = _pair_signs(first_BK, second_BK)
    with np.errstate(invalid="ignore"):
        taus: Floats = (first_signs * second_signs).sum(1) / np.sqrt(
            np.abs(first_signs).sum(1) * np.abs(second_signs).sum(1)
        )
    return taus


def agreement_rows(simulated_BK: Floats, human_BK: Floats) -> Floats:
    """Returns the (B,) share of the pairs with different human means that the simulation orders in the same way; a
    tie is half."""
    simulated_signs, human_signs = _pair_signs(simulated_BK, human_BK)
    with np.errstate(invalid="ignore"):
        shares: Floats = ((simulated_signs * human_signs + 1) / 2 * np.abs(human_signs)).sum(1) / np.abs(
            human_signs
        ).sum(1)
    return shares


def regret_rows(simulated_BK: Floats, human_BK: Floats) -> Floats:
    """Returns (B,) best human mean minus that of the assistant chosen by simulation, averaged over ties.

    The best of several noisy means is too high, so this is an upper bound in expectation.
    """
    is_known = ~(np.isnan(simulated_BK) | np.isnan(human_BK))
    human = np.where(is_known, human_BK, np.nan)
    simulated = np.where(is_known, simulated_BK, -np.inf)
    is_chosen = is_known & (simulated == simulated.max(1, keepdims=True))
    best = np.where(is_known, human, -np.inf).max(1)
    chosen_score: Floats = np.where(is_chosen, human, 0).sum(1) / is_chosen.sum(1)
    return np.asarray(best - chosen_score)


def _pair_signs(first_BK: Floats, second_BK: Floats) -> tuple[Floats, Floats]:
    """Returns two (B, pairs) arrays of -1, 0, 1; 0 on both sides where either is unknown."""
    i, j = np.triu_indices(first_BK.shape[1], 1)
    first_signs = np.sign(first_BK[:, i] - first_BK[:, j])
    second_signs = np.sign(second_BK[:, i] - second_BK[:, j])
    unknown = np.isnan(first_signs) | np.isnan(second_signs)
    return np.where(unknown, 0, first_signs), np.where(unknown, 0, second_signs)


def resolved_pairs(means_BK: Floats, sizes_K: Ints) -> tuple[Ints, Ints]:
    """Returns the pairs (i, j) whose difference has a 95 % interval without 0, uncorrected for their number.

    A resample of very few scores hardly varies, so both need `LEAST_SCORES`.
    """
    i, j = np.triu_indices(means_BK.shape[1], 1)
    low, high = np.nanquantile(means_BK[:, i] - means_BK[:, j], [0.025, 0.975], axis=0)
    is_resolved = ((low > 0) | (high < 0)) & (np.minimum(sizes_K[i], sizes_K[j]) >= LEAST_SCORES)
    return i[is_resolved], j[is_resolved]
