"""How well people agree with people about a ranking, and what a study of a given size can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.stats import f as f_distribution  # type: ignore[import-untyped]
from scipy.stats import kendalltau
from scipy.stats import t as t_distribution

from eval.ranking.ranking import regret_rows, tau_rows
from eval.ranking.scores import Side
from usersim.stats.estimates import Z95, Floats, Floor, floor_of
from usersim.types import Record

TARGETS = (10, 20, 50, 100, 200, 500, 1000)


class Ceiling(Record):
    """Against one half of the people, over random splits: the other half of them, and the simulated users."""

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
    """Share of the variance of one score that is the assistant's; may be negative."""
    icc_low: float
    icc_high: float
    """Exact for equal n; here with the average n that ANOVA uses."""
    scores_per_assistant: float
    reliability: float
    """Of the mean of so many scores: between² / (between² + within² / n)."""
    p: float
    """F test that the assistants do not differ."""


class Power(Record):
    """Two independent studies, k assistants each, the same true means: how τ-b between them falls out."""

    scores_per_assistant: int
    median: float
    low: float
    high: float


def human_ceiling(
    people: Side, machine: Side | None, *, splits: int, rng: np.random.Generator
) -> Ceiling | None:
    """None for fewer than four people, or where no split leaves both halves a ranking."""
    if people.people < 4:
        return None
    order = rng.random((splits, people.people)).argsort(axis=1)
    in_first = (order < people.people // 2)[:, people.person_N].astype(np.float64)
    first_RK, second_RK = people.means_under(in_first), people.means_under(1 - in_first)
    human = tau_rows(first_RK, second_RK)
    other = human if machine is None else tau_rows(_thinned(machine, in_first, rng), second_RK)
    kept = ~(np.isnan(human) | np.isnan(other))
    if not kept.any():
        return None
    return Ceiling(
        human=floor_of(human[kept]),
        simulated=floor_of(other[kept]) if machine else None,
        at_least_as_good=float((other[kept] >= human[kept]).mean()) if machine else None,
        human_regret=floor_of(regret_rows(first_RK[kept], second_RK[kept])),
        people=people.people,
        scores_per_half=round(float(in_first.sum(1).mean())),
    )


def _thinned(machine: Side, in_first_RN: Floats, rng: np.random.Generator) -> Floats:
    """(R, K) means of as many simulated scores as the first half of the people gave."""
    wanted = np.minimum(in_first_RN.sum(1), len(machine))
    rank = rng.random((len(in_first_RN), len(machine))).argsort(axis=1).argsort(axis=1)
    return machine.means_under((rank < wanted[:, None]).astype(np.float64))


def components(groups: Sequence[Floats]) -> Components | None:
    """`groups`: the scores of each assistant. None where no assistant has two scores that differ."""
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
    """Pairs of assistants told apart at 5 % after Holm: t tests with the pooled SD of `components`."""
    degrees = sum(map(len, groups)) - len(groups)
    found = [
        2
        * t_distribution.sf(
            abs(a.mean() - b.mean()) / (within_sd * math.sqrt(1 / len(a) + 1 / len(b))), degrees
        )
        for a, b in combinations(groups, 2)
    ]
    holm = [p * (len(found) - rank) > 0.05 for rank, p in enumerate(sorted(found))]
    return holm.index(True) if True in holm else len(holm)


def scores_needed(icc: float, tau: float = 0.8) -> float | None:
    """Scores per assistant for two studies to agree with an expected τ of so much; None where nothing differs."""
    reliability = math.sin(tau * math.pi / 2)
    return None if icc <= 0 else reliability / (1 - reliability) * (1 - icc) / icc


def _icc(ratio: float, n: float) -> float:
    return (ratio - 1) / (ratio + n - 1)


def tau_interval(tau: float, k: int) -> tuple[float, float]:
    """95 % interval of a τ over k > 4 assistants: var(atanh τ) = 0.437 / (k - 4), for |τ| < 0.8 (Fieller 1957)."""
    half = Z95 * math.sqrt(0.437 / (k - 4))
    middle = math.atanh(tau)
    return math.tanh(middle - half), math.tanh(middle + half)


def spearman_interval(rho: float, k: int) -> tuple[float, float]:
    """95 % interval of Spearman's r over k > 3: var(atanh r) = (1 + r² / 2) / (k - 3) (Bonett & Wright 2000)."""
    half = Z95 * math.sqrt((1 + rho**2 / 2) / (k - 3))
    middle = math.atanh(rho)
    return math.tanh(middle - half), math.tanh(middle + half)


def least_significant_tau(k: int) -> float | None:
    """The smallest τ of k untied assistants with an exact two-sided p ≤ 0.05; None where τ = 1 is not enough."""
    least = None
    for inversions in range(k * (k - 1) // 2):
        found = kendalltau(range(k), _permutation(k, inversions), method="exact")
        if found.pvalue > 0.05:
            break
        least = float(found.statistic)
    return least


def _permutation(k: int, inversions: int) -> list[int]:
    left = list(range(k))
    taken = []
    for _ in range(k):
        jump = min(inversions, len(left) - 1)
        inversions -= jump
        taken.append(left.pop(jump))
    return taken


def expected_tau(reliability: float) -> float:
    """τ between two independent studies whose means both have this reliability: 2/π · asin (normal scores)."""
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
    """By scores per assistant; true means and errors are normal."""
    found = []
    for size in sizes:
        true = rng.normal(0, between_sd, (repeats, k))
        noise = within_sd / math.sqrt(size)
        first, second = (true + rng.normal(0, noise, (repeats, k)) for _ in range(2))
        low, median, high = np.quantile(tau_rows(first, second), [0.025, 0.5, 0.975])
        found.append(Power(scores_per_assistant=size, median=float(median), low=float(low), high=float(high)))
    return tuple(found)
