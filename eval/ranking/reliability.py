"""Reliability of human rankings: agreement of people with people, and the power of a study of a given size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.stats import f as f_distribution  # type: ignore[import-untyped]
from scipy.stats import kendalltau
from scipy.stats import t as t_distribution

from eval.ranking.ranking import regret_rows, tau_rows
from eval.ranking.scores import ScoreTable
from usersim.stats.estimates import Z95, Floats, Floor, floor_of
from usersim.types import Record

TARGETS = (10, 20, 50, 100, 200, 500, 1000)


class Ceiling(Record):
    """Agreement with one half of the people, over random splits: of the other half, and of the simulated users."""

    human: Floor
    """τ-b of the other half's ranking."""
    simulated: Floor | None
    """τ-b of as many simulated scores as the other half has."""
    at_least_as_good: float | None
    """Share of the splits in which the simulated scores agree at least as well as people do."""
    human_regret: Floor
    """Score lost in this half by taking the assistant that is best in the other half."""
    people: int
    scores_per_half: int


class Components(Record):
    """One-way random effects: score = assistant + rest (ANOVA, unequal n; Searle, Casella & McCulloch 1992, §3.6)."""

    between_sd: float
    """SD of the assistants' true means; 0 where the estimate of its square is negative."""
    within_sd: float
    icc: float
    """Share of the variance of one score due to the assistant; may be negative."""
    icc_low: float
    icc_high: float
    """Exact for equal n; here with the average n that ANOVA uses."""
    scores_per_assistant: float
    reliability: float
    """Reliability of the mean of `scores_per_assistant` scores: between² / (between² + within² / n)."""
    p: float
    """F test that the assistants do not differ."""


class Power(Record):
    """Distribution of τ-b between two independent studies of k assistants with the same true means."""

    scores_per_assistant: int
    median: float
    low: float
    high: float


def human_ceiling(
    human_table: ScoreTable, simulated_table: ScoreTable | None, *, splits: int, rng: np.random.Generator
) -> Ceiling | None:
    """Returns the ceiling; None for fewer than four people, or where no split leaves both halves a ranking."""
    if human_table.people < 4:
        return None
    order = rng.random((splits, human_table.people)).argsort(axis=1)
    in_first = (order < human_table.people // 2)[:, human_table.person_N].astype(np.float64)
    first_RK, second_RK = human_table.means_under(in_first), human_table.means_under(1 - in_first)
    human = tau_rows(first_RK, second_RK)
    other = (
        human
        if simulated_table is None
        else tau_rows(_subsampled_means(simulated_table, in_first, rng), second_RK)
    )
    is_measured = ~(np.isnan(human) | np.isnan(other))
    if not is_measured.any():
        return None
    return Ceiling(
        human=floor_of(human[is_measured]),
        simulated=floor_of(other[is_measured]) if simulated_table else None,
        at_least_as_good=float((other[is_measured] >= human[is_measured]).mean())
        if simulated_table
        else None,
        human_regret=floor_of(regret_rows(first_RK[is_measured], second_RK[is_measured])),
        people=human_table.people,
        scores_per_half=round(float(in_first.sum(1).mean())),
    )


def _subsampled_means(simulated_table: ScoreTable, in_first_RN: Floats, rng: np.random.Generator) -> Floats:
    """Returns (R, K) means of as many simulated scores as the first half of the people has."""
    sample_sizes = np.minimum(in_first_RN.sum(1), len(simulated_table))
    rank = rng.random((len(in_first_RN), len(simulated_table))).argsort(axis=1).argsort(axis=1)
    return simulated_table.means_under((rank < sample_sizes[:, None]).astype(np.float64))


def components(groups: Sequence[Floats]) -> Components | None:
    """Returns the variance components of each assistant's scores (`groups`); None where no assistant has two scores
    that differ."""
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    total, k = float(sizes.sum()), len(groups)
    grand = sum(float(group.sum()) for group in groups) / total
    between = sum(len(g) * (float(g.mean()) - grand) ** 2 for g in groups) / (k - 1)
    within = sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / max(1.0, total - k)
    if total <= k or within <= 0:
        return None
    n = (total - float((sizes**2).sum()) / total) / (k - 1)
    ratio = between / within
    upper, lower = f_distribution.ppf([0.025, 0.975], k - 1, total - k)
    variance = max(0.0, (between - within) / n)
    return Components(
        between_sd=math.sqrt(variance),
        within_sd=math.sqrt(within),
        icc=_icc(ratio, n),
        icc_low=_icc(ratio / lower, n),
        icc_high=_icc(ratio / upper, n),
        scores_per_assistant=n,
        reliability=variance / (variance + within / n),
        p=float(f_distribution.sf(ratio, k - 1, total - k)),
    )


def pairs_apart(groups: Sequence[Floats], within_sd: float) -> int:
    """Returns the number of pairs of assistants that differ at 5 % after Holm: t tests with the pooled SD of
    `components`."""
    degrees = sum(map(len, groups)) - len(groups)
    p_values = [
        2
        * t_distribution.sf(
            abs(a.mean() - b.mean()) / (within_sd * math.sqrt(1 / len(a) + 1 / len(b))), degrees
        )
        for a, b in combinations(groups, 2)
    ]
    holm = [p * (len(p_values) - rank) > 0.05 for rank, p in enumerate(sorted(p_values))]
    return holm.index(True) if True in holm else len(holm)


def scores_needed(icc: float, tau: float = 0.8) -> float | None:
    """Returns the scores per assistant at which two studies agree with an expected τ of `tau`; None where nothing
    differs."""
    reliability = math.sin(tau * math.pi / 2)
    return None if icc <= 0 else reliability / (1 - reliability) * (1 - icc) / icc


def _icc(ratio: float, n: float) -> float:
    return (ratio - 1) / (ratio + n - 1)


def tau_interval(tau: float, k: int) -> tuple[float, float]:
    """Returns the 95 % interval of a τ over k > 4 assistants: var(atanh τ) = 0.437 / (k - 4), for |τ| < 0.8 (Fieller
    1957)."""
    half = Z95 * math.sqrt(0.437 / (k - 4))
    middle = math.atanh(tau)
    return math.tanh(middle - half), math.tanh(middle + half)


def spearman_interval(rho: float, k: int) -> tuple[float, float]:
    """Returns the 95 % interval of Spearman's r over k > 3: var(atanh r) = (1 + r² / 2) / (k - 3) (Bonett & Wright
    2000)."""
    half = Z95 * math.sqrt((1 + rho**2 / 2) / (k - 3))
    middle = math.atanh(rho)
    return math.tanh(middle - half), math.tanh(middle + half)


def least_significant_tau(k: int) -> float | None:
    """Returns the smallest τ of k untied assistants with an exact two-sided p ≤ 0.05; None where τ = 1 is not
    enough."""
    smallest = None
    for inversions in range(k * (k - 1) // 2):
        test = kendalltau(range(k), _permutation(k, inversions), method="exact")
        if test.pvalue > 0.05:
            break
        smallest = float(test.statistic)
    return smallest


def _permutation(k: int, inversions: int) -> list[int]:
    remaining = list(range(k))
    permutation = []
    for _ in range(k):
        jump = min(inversions, len(remaining) - 1)
        inversions -= jump
        permutation.append(remaining.pop(jump))
    return permutation


def expected_tau(reliability: float) -> float:
    """Returns τ between two independent studies whose means both have this reliability: 2/π · asin (normal scores)."""
    return 2 / math.pi * math.asin(reliability)


def power(
    k: int,
    between_sd: float,
    within_sd: float,
    *,
    rng: np.random.Generator,
    sizes: Sequence[int] = TARGETS,
    repeats: int = 2000,
) -> tuple[Power, ...]:
    """Returns the power by scores per assistant; true means and errors are normal."""
    powers = []
    for size in sizes:
        true = rng.normal(0, between_sd, (repeats, k))
        noise = within_sd / math.sqrt(size)
        first, second = (true + rng.normal(0, noise, (repeats, k)) for _ in range(2))
        low, median, high = np.quantile(tau_rows(first, second), [0.025, 0.5, 0.975])
        powers.append(
            Power(scores_per_assistant=size, median=float(median), low=float(low), high=float(high))
        )
    return tuple(powers)
