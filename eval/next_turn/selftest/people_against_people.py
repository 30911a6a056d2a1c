"""People against people, and coverage of intervals: false positives of the metrics when there is no difference.

All functions work on sums by cluster, computed once. All splits share the random reassignments, because the pooled
people are the same in every split. So the null distribution of a difference is the same too. Each p equals that of
`values.p_unpaired` and `values.p_paired`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t  # type: ignore[import-untyped]

from eval.fidelity.verdicts import holm
from eval.next_turn.metrics.values import ClusterSums, Values
from eval.next_turn.selftest.planted_table import ALPHA
from eval.next_turn.selftest.selftest_record import PeopleResult
from usersim.stats.estimates import Floats, Ints, resamples, rng_for

Masks = NDArray[np.bool_]
Dealt = Callable[[Masks], float]
"""Function from the mask of the clusters on the first side to the p of that split."""


def halves(
    sums: Mapping[str, ClusterSums],
    sources: Sequence[str],
    *,
    splits: int,
    permutations: int,
    seed: int,
    others: Mapping[str, Dealt] | None = None,
    step: Callable[[], None] = lambda: None,
) -> PeopleResult:
    """Tests random halves of the clusters against each other, unpaired, each source in equal parts.

    Args:
        sums: Sums of people's values by metric, all over the same clusters.
        sources: Source of each cluster.

        others: Tests that are not of sums, such as a discriminator's.
        step: Called after each split.
    """
    first_SC = split_masks(sources, splits, rng_for(seed, "halves of people"))
    if not splits or not len(sources):
        raise ValueError("no people to split")
    numerator_CM, denominator_CM = _stacked(list(sums.values()))
    size = int(first_SC[0].sum())
    deals = rng_for(seed, "deals of people").random((permutations, len(sources)))
    ranks = deals.argpartition(size - 1, axis=1)[:, :size]
    dealt_RC = np.zeros(deals.shape)
    np.put_along_axis(dealt_RC, ranks, 1.0, axis=1)
    null_RM = _gaps(dealt_RC, numerator_CM, denominator_CM)
    seen_SM = _gaps(first_SC.astype(np.float64), numerator_CM, denominator_CM)
    p_SM = _p_of(seen_SM, null_RM)
    rows = []
    for first_C, p_M in zip(first_SC, p_SM, strict=True):
        rows.append([*p_M, *(test(first_C) for test in (others or {}).values())])
        step()
    return _result("halves", [*sums, *(others or {})], rows)


def pairs(
    values: Mapping[str, Values],
    clusters: Sequence[str],
    sources: Sequence[str],
    positions: Sequence[int],
    *,
    splits: int,
    permutations: int,
    seed: int,
) -> PeopleResult:
    """Tests random pairs of people of a source, at the turns that both have; one of each pair is labelled simulator.

    Args:
        values: People's values by metric at the same prefixes.
        clusters, sources, positions: Of each prefix.
    """
    names, owner_P = np.unique(np.asarray(clusters), return_inverse=True)
    place_P = np.unique(np.asarray(positions), return_inverse=True)[1]
    shape = (len(names), int(place_P.max()) + 1)
    present_CT = np.zeros(shape, dtype=bool)
    present_CT[owner_P, place_P] = True
    tables = []
    for metric_values in values.values():
        for column_P in (metric_values.numerator_P, metric_values.denominator_P):
            table_CT = np.zeros(shape)
            np.add.at(table_CT, (owner_P, place_P), column_P)
            tables.append(table_CT)
    table_CTK = np.stack(tables, axis=-1)
    source_of = dict(zip(owner_P.tolist(), sources, strict=True))
    rng = rng_for(seed, "pairs of people")
    kept_RQ: Floats | None = None
    rows = []
    for _ in range(splits):
        one_Q, two_Q = _random_pairs([source_of[c] for c in range(len(names))], rng)
        if kept_RQ is None:
            kept_RQ = rng.integers(0, 2, size=(permutations, len(one_Q))).astype(np.float64)
        shared_QT = (present_CT[one_Q] & present_CT[two_Q])[:, :, None]
        one_QK, two_QK = ((table_CTK[side] * shared_QT).sum(1) for side in (one_Q, two_Q))
        total_K = one_QK.sum(0) + two_QK.sum(0)
        dealt_RK = two_QK.sum(0) + kept_RQ @ (one_QK - two_QK)
        null_RM = _gap_between(dealt_RK, total_K - dealt_RK)
        seen_SM = _gap_between(one_QK.sum(0)[None], two_QK.sum(0)[None])
        rows.append(list(_p_of(seen_SM, null_RM)[0]))
    return _result("pairs", list(values), rows)


def coverage(sums: ClusterSums, counts_RC: Floats, *, is_share: bool = False) -> float:
    """Share of bootstrap resamples of clusters whose interval (`values.estimate`) contains the ratio of the full set.

    Args:
        counts_RC: Multiplicity of each cluster in each resample (`cluster_counts`).

    Raises:
        ValueError: The ratio is the same in every resample, so coverage is undefined.
    """
    if not sums.denominator_C.any():
        raise ValueError("defined nowhere")
    known_C = sums.denominator_C > 0
    ratios_C = sums.numerator_C[known_C] / sums.denominator_C[known_C]
    if np.allclose(ratios_C, ratios_C[0], rtol=0, atol=1e-12):
        raise ValueError("the same for all people")
    low_R, high_R = intervals(sums, counts_RC, is_share=is_share)
    defined_R = np.isfinite(low_R)
    inside_R = (low_R <= sums.ratio + 1e-12) & (sums.ratio - 1e-12 <= high_R)
    return float(inside_R[defined_R].mean())


def cluster_counts(clusters: int, repeats: int, seed: int) -> Floats:
    """Multiplicity (R, C) of each cluster in R resamples with replacement."""
    return resamples(clusters, repeats, rng_for(seed, "coverage"))


def intervals(sums: ClusterSums, counts_RC: Floats, *, is_share: bool = False) -> tuple[Floats, Floats]:
    """Ends of `values.estimate` on every resample at once; NaN where a resample has no defined value."""
    numerator_C, denominator_C = sums.numerator_C, sums.denominator_C
    over_R = counts_RC @ denominator_C
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_R = (counts_RC @ numerator_C) / over_R
        known_R = counts_RC @ (denominator_C > 0).astype(np.float64)
        rest_RC = over_R[:, None] - denominator_C
        influence_RC = np.where(
            rest_RC > 1e-12, (numerator_C - ratio_R[:, None] * denominator_C) / rest_RC, 0.0
        )
        squares_R = (counts_RC * influence_RC**2).sum(1)
        fourth_R = (counts_RC * influence_RC**4).sum(1)
        error_R = np.sqrt(np.maximum(known_R - 1, 1) / np.maximum(known_R, 1) * squares_R)
        most_R, excess_R = np.maximum(known_R - 1, 1), fourth_R - squares_R**2 / np.maximum(known_R, 1)
        freedom_R = np.where(
            excess_R > 1e-12 * fourth_R, np.clip(2 * squares_R**2 / excess_R, 1, most_R), most_R
        )
        if not is_share:
            half_R = student_t.ppf(0.975, freedom_R) * error_R
            return ratio_R - half_R, ratio_R + half_R
        varies_R = (ratio_R > 0) & (ratio_R < 1) & (error_R > 0)
        n_R = np.where(varies_R, ratio_R * (1 - ratio_R) / error_R**2, known_R)
        z2_R = student_t.ppf(0.975, np.where(varies_R, freedom_R, most_R)) ** 2
        middle_R = (ratio_R + z2_R / (2 * n_R)) / (1 + z2_R / n_R)
        half_R = np.sqrt(z2_R * (ratio_R * (1 - ratio_R) / n_R + z2_R / (4 * n_R**2))) / (1 + z2_R / n_R)
        low_R = np.where(ratio_R <= 0, 0.0, np.maximum(0.0, middle_R - half_R))
        high_R = np.where(ratio_R >= 1, 1.0, np.minimum(1.0, middle_R + half_R))
    is_undefined_R = over_R <= 0
    return np.where(is_undefined_R, np.nan, low_R), np.where(is_undefined_R, np.nan, high_R)


def split_masks(sources: Sequence[str], splits: int, rng: np.random.Generator) -> Masks:
    """Masks (S, C) of the clusters on the first side: half of every source; odd ones alternate between the sides."""
    masks = np.zeros((splits, len(sources)), dtype=bool)
    of_source = {name: np.flatnonzero(np.asarray(sources) == name) for name in sorted(set(sources))}
    for mask in masks:
        odd = 0
        for members in of_source.values():
            size = (len(members) + odd) // 2
            odd = (len(members) + odd) % 2
            mask[rng.permutation(members)[:size]] = True
    return masks


def _random_pairs(sources: Sequence[str], rng: np.random.Generator) -> tuple[Ints, Ints]:
    one, two = [], []
    for name in sorted(set(sources)):
        members = rng.permutation(np.flatnonzero(np.asarray(sources) == name))
        half = len(members) // 2
        one += members[:half].tolist()
        two += members[half : 2 * half].tolist()
    return np.array(one, dtype=np.int64), np.array(two, dtype=np.int64)


def _stacked(sums: Sequence[ClusterSums]) -> tuple[Floats, Floats]:
    return (
        np.stack([one.numerator_C for one in sums], axis=1),
        np.stack([one.denominator_C for one in sums], axis=1),
    )


def _gaps(first_RC: Floats, numerator_CM: Floats, denominator_CM: Floats) -> Floats:
    one = np.stack([first_RC @ numerator_CM, first_RC @ denominator_CM], axis=-1)
    total = np.stack([numerator_CM.sum(0), denominator_CM.sum(0)], axis=-1)
    return _gap_between(one.reshape(len(one), -1), (total - one).reshape(len(one), -1))


def _gap_between(one_RK: Floats, two_RK: Floats) -> Floats:
    """Absolute difference of ratios (R, M), from columns numerator, denominator, …; NaN where a side has no value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        gap: Floats = np.abs(one_RK[:, ::2] / one_RK[:, 1::2] - two_RK[:, ::2] / two_RK[:, 1::2])
    return gap


def _p_of(seen_SM: Floats, null_RM: Floats) -> Floats:
    """Share of reassignments at least as extreme. One without a value counts against rejection."""
    p = np.ones_like(seen_SM)
    for column in range(seen_SM.shape[1]):
        null = np.sort(np.where(np.isfinite(null_RM[:, column]), null_RM[:, column], np.inf))
        statistics = seen_SM[:, column]
        below = np.searchsorted(
            null, np.where(np.isfinite(statistics), statistics, -np.inf) - 1e-12, side="left"
        )
        p[:, column] = (1 + len(null) - below) / (1 + len(null))
    return p


def _result(form: str, keys: Sequence[str], rows: Sequence[Sequence[float]]) -> PeopleResult:
    adjusted = np.array([holm(row) for row in rows])
    is_significant_SM = adjusted < ALPHA
    return PeopleResult.model_validate(
        {
            "form": form,
            "repeats": len(rows),
            "metrics": len(keys),
            "share": float(is_significant_SM.any(axis=1).mean()),
            "by_metric": {
                key: float(share)
                for key, share in zip(keys, is_significant_SM.mean(axis=0), strict=True)
                if share > 0
            },
        }
    )
