"""Comparison of users sampled from a population with held-out people: marginals, pair dependencies, distances.

Marginals: Kolmogorov-Smirnov distance, the largest difference between two cumulative shares. Pair dependencies:
difference in Spearman's correlation, with mid-ranks for ties. Intervals are 95 %, from a bootstrap over the held-out
people. `by_chance` is the 95 % quantile of the same statistic for as many people sampled from the population itself.
Values below it are no evidence that the held-out people differ from the population.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from usersim.errors import DataError
from usersim.populations.copula import Floats, mid_ranks
from usersim.populations.people import LoggedPerson
from usersim.populations.record import ATTRIBUTES, TRAIT
from usersim.populations.sample import Population
from usersim.populations.traits import TRAITS
from usersim.types import Record, Style

FEWEST = 30
"""Minimum number of people with an attribute, or with both of a pair, for a comparison."""
REPEATS = 200
MOST_DISTANCES = 1000
"""Maximum number of users, and of people, whose distance to the nearest fitted person is measured."""


class MarginalComparison(Record):
    """Comparison of one attribute or trait between sampled users and held-out people."""

    name: str
    people: int
    """Number of held-out people with the attribute."""
    ks: float
    """Kolmogorov-Smirnov distance over people with the attribute; for a trait, the difference in shares."""
    low: float
    high: float
    """Bootstrap interval of `ks`, corrected for its upward bias."""
    by_chance: float
    stated_people: float
    stated_users: float
    """Shares of held-out people and of sampled users with the attribute."""
    middle_people: float
    middle_users: float
    """Medians; for a trait, the shares of people with it."""


class PairComparison(Record):
    """Spearman correlations of two attributes among held-out people and among sampled users."""

    first: str
    second: str
    people: int
    spearman_people: float
    spearman_users: float
    low: float
    high: float
    """Interval of the difference, users minus people."""


class PairSummary(Record):
    """Summary of all pairs of one kind: two style attributes, or a persona trait and an attribute."""

    pairs: int
    mean_difference: float
    """Mean over the pairs of |users - people|."""
    by_chance: float
    mean_spearman_people: float
    """Mean of |people|, approximately the difference for users with independent attributes."""
    within_interval: float
    """Share of the pairs whose interval of the difference includes 0."""


class Distances(Record):
    """Distances to the nearest fitted person; see `Population.distance`."""

    stated: float
    """Minimum distance that the population guarantees between a sampled user and every fitted person."""
    least_users: float
    """Smallest measured distance; ranks are stored with a resolution of 1/254."""
    median_users: float
    median_people: float
    """Median distance of held-out people."""
    people_within_stated: float
    """Share of held-out people within `stated` of a fitted person."""


class PopulationComparison(Record):
    """Comparison of sampled users with held-out people."""

    people: int
    users: int
    seed: int
    mean_ks: float
    """Mean over the style attributes."""
    mean_ks_by_chance: float
    style_pairs: PairSummary
    persona_pairs: PairSummary | None
    """None: too few held-out people have a persona with a description."""
    distances: Distances
    marginals: tuple[MarginalComparison, ...]
    pairs: tuple[PairComparison, ...]


def compare_population(
    population: Population, people: Sequence[LoggedPerson], *, users: int = 5000, seed: int = 0
) -> PopulationComparison:
    """Samples `users` users and compares them with people that the population was not fitted to.

    Raises:
        DataError: Fewer than 30 people or users, or no comparable attributes.
    """
    if min(len(people), users) < FEWEST:
        raise DataError(
            f"{len(people)} people and {users} users; a comparison needs at least {FEWEST} of each"
        )
    personas = [profile.persona for profile in population.sample(users, seed) if profile.persona]
    styles = [persona.style or Style() for persona in personas]
    user_columns = _columns(styles, [frozenset(persona.description.split(", ")) for persona in personas])
    held_out = _columns([person.style for person in people], [person.traits for person in people])
    held_out["turns"] = np.where([person.leaves for person in people], held_out["turns"], np.nan)
    columns = {
        name: (held_out[name], user_columns[name])
        for name in held_out
        if min(np.isfinite(held_out[name]).sum(), np.isfinite(user_columns[name]).sum()) >= FEWEST
        and _is_kept(population, name)
    }
    rng = np.random.default_rng(seed)
    counts_BN = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), size=REPEATS).astype(
        float
    )
    levels_BN = rng.random((REPEATS, len(people)))
    marginals, ks_by_chance = [], []
    for name, (own, users_own) in columns.items():
        marginal, by_chance = _marginal(name, own, users_own, counts_BN, levels_BN)
        marginals.append(marginal)
        if not name.startswith(TRAIT):
            ks_by_chance.append(by_chance)
    ranks = {name: (mid_ranks(own), mid_ranks(users_own)) for name, (own, users_own) in columns.items()}
    style_pairs, style_summary = _pairs(ranks, counts_BN, levels_BN, persona=False)
    persona_pairs, persona_summary = _pairs(ranks, counts_BN, levels_BN, persona=True)
    if style_summary is None:
        raise DataError(
            "no two attributes that enough held-out people have and that vary among them; give more conversations"
        )
    return PopulationComparison(
        people=len(people),
        users=users,
        seed=seed,
        mean_ks=float(np.mean([m.ks for m in marginals if not m.name.startswith(TRAIT)])),
        mean_ks_by_chance=float(np.quantile(np.mean(ks_by_chance, axis=0), 0.95)),
        style_pairs=style_summary,
        persona_pairs=persona_summary,
        distances=_distances(population, styles, [person.style for person in people]),
        marginals=tuple(marginals),
        pairs=(*style_pairs, *persona_pairs),
    )


def _distances(population: Population, users: Sequence[Style], people: Sequence[Style]) -> Distances:
    nearest_users = population.nearest_distances(users[:MOST_DISTANCES])
    nearest_people = np.array(population.nearest_distances(people[:MOST_DISTANCES]))
    return Distances(
        stated=population.distance,
        least_users=min(nearest_users),
        median_users=float(np.median(nearest_users)),
        median_people=float(np.median(nearest_people)),
        people_within_stated=float(np.mean(nearest_people <= population.distance)),
    )


def _is_kept(population: Population, name: str) -> bool:
    """Returns True if the population has the column; it has no trait that few people had."""
    return not name.startswith(TRAIT) or any(name in stratum.shares for stratum in population.record.strata)


def _columns(styles: Sequence[Style], traits: Sequence[frozenset[str] | None]) -> dict[str, Floats]:
    columns = {
        name: np.array(
            [np.nan if (v := getattr(style, name)) is None else v for style in styles], dtype=float
        )
        for name in ATTRIBUTES
    }
    for trait in TRAITS:
        columns[TRAIT + trait] = np.array([np.nan if own is None else float(trait in own) for own in traits])
    return columns


def _marginal(
    name: str, people: Floats, users: Floats, counts_BN: Floats, levels_BN: Floats
) -> tuple[MarginalComparison, Floats]:
    """Returns the comparison, and distances by resample for as many people sampled from the population."""
    is_stated = np.isfinite(people)
    sorted_users = np.sort(users[np.isfinite(users)])
    value = float(_ks(people[is_stated], np.ones((1, is_stated.sum())), sorted_users)[0])
    replicates = _ks(people[is_stated], counts_BN[:, is_stated], sorted_users)
    low, high = np.quantile(replicates - replicates.mean() + value, [0.025, 0.975])
    resampled_BN = sorted_users[(levels_BN[:, : is_stated.sum()] * len(sorted_users)).astype(int)]
    by_chance = np.array([_ks(row, np.ones((1, len(row))), sorted_users)[0] for row in resampled_BN])
    middle = np.mean if name.startswith(TRAIT) else np.median
    marginal = MarginalComparison(
        name=name,
        people=int(is_stated.sum()),
        ks=value,
        low=max(0.0, float(low)),
        high=float(high),
        by_chance=float(np.quantile(by_chance, 0.95)),
        stated_people=float(is_stated.mean()),
        stated_users=float(np.isfinite(users).mean()),
        middle_people=float(middle(people[is_stated])),
        middle_users=float(middle(sorted_users)),
    )
    return marginal, by_chance


def _ks(values: Floats, counts_BN: Floats, reference: Floats) -> Floats:
    """Returns the KS distance of weighted `values` from the sorted `reference`, per row of counts."""
    points, point_index = np.unique(values, return_inverse=True)
    mass_BP = np.zeros((len(counts_BN), len(points)))
    np.add.at(mass_BP.T, point_index, counts_BN.T)
    total_B = np.maximum(mass_BP.sum(axis=1, keepdims=True), 1)
    up_to_BP = np.cumsum(mass_BP, axis=1) / total_B
    before_BP = up_to_BP - mass_BP / total_B
    up_to = np.searchsorted(reference, points, side="right") / len(reference)
    before = np.searchsorted(reference, points, side="left") / len(reference)
    at_B = np.abs(up_to_BP - up_to).max(axis=1)
    below_B = np.abs(before_BP - before).max(axis=1)
    larger: Floats = np.maximum(at_B, below_B)
    return larger


def _pairs(
    ranks: dict[str, tuple[Floats, Floats]], counts_BN: Floats, levels_BN: Floats, *, persona: bool
) -> tuple[list[PairComparison], PairSummary | None]:
    """Compares pairs of two style attributes, or with `persona` of a trait and an attribute."""
    pairs, chance = [], []
    for first, second in combinations(ranks, 2):
        if [first.startswith(TRAIT), second.startswith(TRAIT)] != [False, persona]:
            continue
        people_P2, users_U2 = (np.column_stack([ranks[first][side], ranks[second][side]]) for side in (0, 1))
        is_stated = np.isfinite(people_P2).all(axis=1)
        users_U2 = users_U2[np.isfinite(users_U2).all(axis=1)]
        people_P2 = people_P2[is_stated]
        value, users_value = _spearman(people_P2), _spearman(users_U2)
        if is_stated.sum() < FEWEST or not np.isfinite([value, users_value]).all():
            continue
        differences = users_value - _counted_correlation(people_P2, counts_BN[:, is_stated])
        low, high = np.nanquantile(differences, [0.025, 0.975])
        pairs.append(
            PairComparison(
                first=first,
                second=second,
                people=int(is_stated.sum()),
                spearman_people=value,
                spearman_users=users_value,
                low=float(low),
                high=float(high),
            )
        )
        resampled_BN2 = users_U2[(levels_BN[:, : is_stated.sum()] * len(users_U2)).astype(int)]
        x, y = np.moveaxis(resampled_BN2 - resampled_BN2.mean(axis=1, keepdims=True), 2, 0)
        size = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        chance.append(np.abs((x * y).sum(axis=1) / np.maximum(size, 1e-12) - users_value))
    if not pairs:
        return [], None
    return pairs, PairSummary(
        pairs=len(pairs),
        mean_difference=float(np.mean([abs(p.spearman_users - p.spearman_people) for p in pairs])),
        by_chance=float(np.quantile(np.mean(chance, axis=0), 0.95)),
        mean_spearman_people=float(np.mean([abs(pair.spearman_people) for pair in pairs])),
        within_interval=float(np.mean([pair.low <= 0 <= pair.high for pair in pairs])),
    )


def _spearman(ranks_N2: Floats) -> float:
    return float(_counted_correlation(ranks_N2, np.ones((1, len(ranks_N2))))[0])


def _counted_correlation(ranks_N2: Floats, counts_BN: Floats) -> Floats:
    """Returns the weighted correlation of two rank columns, per row of counts; NaN if one does not vary."""
    x, y = ranks_N2.T
    moments = counts_BN @ np.column_stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    mean_x, mean_y, xx, yy, xy = (moments[:, 1:] / np.maximum(moments[:, :1], 1)).T
    spread = (xx - mean_x**2) * (yy - mean_y**2)
    out: Floats = np.where(
        spread > 1e-12, (xy - mean_x * mean_y) / np.sqrt(np.maximum(spread, 1e-12)), np.nan
    )
    return out
