"""Fit of a population to the people of chat logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from usersim.errors import DataError
from usersim.populations.copula import Floats, Ints, latent_correlation, lower_triangle, mid_ranks
from usersim.populations.people import LoggedPerson
from usersim.populations.record import (
    ATTRIBUTES,
    LEVELS,
    NOT_STATED,
    STATED,
    TRAIT,
    PatienceStratum,
    PopulationRecord,
    RankScale,
    pack_rows,
)
from usersim.populations.traits import TRAITS

FEWEST_PEOPLE = 30
"""Minimum number of people for a fit, and of known ends for a patience attribute."""
STRATUM_PEOPLE = 100
STRATA = (1, 2, 3, 5, 9)
"""Minimum user turns of each stratum. A stratum of fewer than `STRATUM_PEOPLE` people is merged with its neighbour."""
TRAIT_PEOPLE = 10
"""Minimum number of people with a trait: overall to keep it, in a stratum for its own dependencies."""
POOLED_PEOPLE = 50
"""Prior weight, in people, of a trait's overall share for its share in one stratum."""
KNOTS = 64
DISTANCE = 0.01


def fit_population(people: Sequence[LoggedPerson], *, distance: float = DISTANCE) -> PopulationRecord:
    """Fits a population with the people's marginals and pair dependencies, per stratum of patience.

    The share of each stratum is a Kaplan-Meier (1958) estimate: a cut conversation is censored at its length. A source
    without any known end is left out of the shares.

    Args:
        people: One entry per person, from `people_of`.
        distance: Minimum rank difference between a sampled user and each of `people`, in at least one attribute.

    Returns:
        The fitted population.

    Raises:
        DataError: Fewer than 30 people.
    """
    if len(people) < FEWEST_PEOPLE:
        raise DataError(
            f"people in the logs: {len(people)}; a population needs at least {FEWEST_PEOPLE}: give more "
            "conversations, or logs of more people"
        )
    values = {
        name: np.array([np.nan if (value := getattr(p.style, name)) is None else value for p in people])
        for name in ATTRIBUTES
    }
    scales = {name: _scale(column) for name, column in values.items() if np.isfinite(column).any()}
    ends = sum(person.leaves for person in people)
    return PopulationRecord(
        people=len(people),
        described=sum(person.traits is not None for person in people),
        ends=ends,
        states_patience=ends >= FEWEST_PEOPLE,
        sources=dict(sorted(Counter(person.source for person in people).items())),
        strata=_strata(people, values),
        scales=scales,
        distance=distance,
        styles=pack_rows(style_rows(values, scales)),
    )


def style_rows(values: dict[str, Floats], scales: dict[str, RankScale]) -> set[bytes]:
    """Returns the people's ranks as rows of bytes."""
    columns = []
    for name in ATTRIBUTES:
        column = np.full(len(values[name]), NOT_STATED, dtype=np.uint8)
        is_stated = np.isfinite(values[name])
        if name in scales:
            ranks = np.interp(values[name][is_stated], scales[name].values, scales[name].ranks)
            column[is_stated] = np.rint(ranks * LEVELS)
        columns.append(column)
    return {row.tobytes() for row in np.column_stack(columns)}


def _scale(column: Floats) -> RankScale:
    ordered = np.sort(column[np.isfinite(column)])
    knots = np.unique(ordered[_quantile_indices(len(ordered), 2 * KNOTS)])
    ranks = dict(zip(ordered.tolist(), mid_ranks(ordered).tolist(), strict=True))
    return RankScale(
        values=tuple(_short(value) for value in knots.tolist()),
        ranks=tuple(round(ranks[value], 4) for value in knots.tolist()),
    )


def _strata(people: Sequence[LoggedPerson], values: dict[str, Floats]) -> tuple[PatienceStratum, ...]:
    turns = values["turns"]
    starts = _starts(turns)
    leaves = np.array([person.leaves for person in people])
    with_ends = {person.source for person in people if person.leaves}
    has_ends = np.array([person.source in with_ends or not with_ends for person in people])
    stays = _staying(turns[has_ends], leaves[has_ends], starts)
    trait_shares = _trait_shares(people)
    overall = _overall(people, values, trait_shares)
    strata = []
    for index, start in enumerate(starts):
        after = starts[index + 1] if index + 1 < len(starts) else None
        inside = (turns >= start) & (turns < (np.inf if after is None else after))
        rows = np.flatnonzero(inside)
        strata.append(
            _stratum(
                [people[row] for row in rows],
                {name: column[rows] for name, column in values.items()},
                first_turns=start,
                last_turns=None if after is None else after - 1,
                share=stays[index] - (stays[index + 1] if after is not None else 0.0),
                trait_shares=trait_shares,
                overall=overall,
            )
        )
    return tuple(strata)


def _starts(turns: Floats) -> list[int]:
    """Returns the minimum turns of each stratum, after merging small strata with the one below."""
    starts = [1]
    for candidate in STRATA[1:]:
        below = np.count_nonzero((turns >= starts[-1]) & (turns < candidate))
        above = np.count_nonzero(turns >= candidate)
        if below >= STRATUM_PEOPLE and above >= STRATUM_PEOPLE:
            starts.append(candidate)
    return starts


def _staying(turns: Floats, leaves: NDArray[np.bool_], starts: Sequence[int]) -> list[float]:
    """Returns the Kaplan-Meier share of people with at least `start` turns, for each start."""
    if not leaves.any():
        return [float(np.mean(turns >= start)) for start in starts]
    staying, share = 1.0, {1: 1.0}
    for turn in range(1, max(starts)):
        # A conversation cut after this turn is censored: its person wrote the turn and may or may not have left then.
        at_risk = np.count_nonzero((turns > turn) | ((turns == turn) & leaves))
        left = np.count_nonzero((turns == turn) & leaves)
        staying *= 1 - left / at_risk if at_risk else 1.0
        share[turn + 1] = staying
    return [share[start] for start in starts]


def _stratum(
    people: Sequence[LoggedPerson],
    values: dict[str, Floats],
    *,
    first_turns: int,
    last_turns: int | None,
    share: float,
    trait_shares: dict[str, float],
    overall: dict[tuple[str, str], float],
) -> PatienceStratum:
    columns = _columns(people, values, trait_shares)
    shares = {name: float(column.mean()) for name, column in columns.items() if name.startswith(STATED)}
    described = [person.traits for person in people if person.traits is not None]
    for trait, pooled in trait_shares.items():
        having = sum(trait in traits for traits in described) + POOLED_PEOPLE * pooled
        shares[TRAIT + trait] = having / (len(described) + POOLED_PEOPLE)
    varying = [name for name, column in columns.items() if name.startswith(TRAIT) or _varies(column)]
    prior = [[overall.get((a, b), float(a == b)) for b in varying] for a in varying]
    matrix = np.column_stack([columns[name] for name in varying]) if varying else np.zeros((0, 0))
    correlation = latent_correlation(matrix, np.array(prior)) if varying else matrix
    return PatienceStratum(
        first_turns=first_turns,
        last_turns=last_turns,
        share=round(share, 5),
        people=len(people),
        marginals={
            name: _quantiles(column[np.isfinite(column)])
            for name, column in columns.items()
            if name in ATTRIBUTES
        },
        shares={name: round(value, 4) for name, value in shares.items()},
        columns=tuple(varying),
        correlation=lower_triangle(correlation),
    )


def _overall(
    people: Sequence[LoggedPerson], values: dict[str, Floats], trait_shares: dict[str, float]
) -> dict[tuple[str, str], float]:
    """Returns latent correlations of traits with attributes and with each other, over all strata."""
    columns = {
        name: column
        for name, column in _columns(people, values, trait_shares).items()
        if not name.startswith(STATED)
    }
    if not trait_shares:
        return {}
    matrix = latent_correlation(np.column_stack(list(columns.values())))
    return {
        (first, second): float(matrix[row, column])
        for row, first in enumerate(columns)
        for column, second in enumerate(columns)
        if first.startswith(TRAIT) or second.startswith(TRAIT)
    }


def _columns(
    people: Sequence[LoggedPerson], values: dict[str, Floats], trait_shares: dict[str, float]
) -> dict[str, Floats]:
    """Returns the copula's columns: attributes, indicators of stated attributes, traits; NaN where missing."""
    columns: dict[str, Floats] = {}
    leaves = np.array([person.leaves for person in people])
    for name, every in values.items():
        column = np.where(leaves, every, np.nan) if name == "turns" and leaves.any() else every
        is_stated = np.isfinite(column)
        if not is_stated.any():
            continue
        columns[name] = column
        if name != "turns" and not is_stated.all():
            columns[STATED + name] = is_stated.astype(np.float64)
    for trait in trait_shares:
        column = np.array([np.nan if p.traits is None else float(trait in p.traits) for p in people])
        # Too few people for a correlation with style in this stratum; the overall one is used.
        columns[TRAIT + trait] = column if np.nansum(column) >= TRAIT_PEOPLE else np.full(len(people), np.nan)
    return columns


def _trait_shares(people: Sequence[LoggedPerson]) -> dict[str, float]:
    """Returns the share of described people with each trait, for frequent traits."""
    described = [person.traits for person in people if person.traits is not None]
    counts = Counter(trait for traits in described for trait in traits)
    return {trait: counts[trait] / len(described) for trait in TRAITS if counts[trait] >= TRAIT_PEOPLE}


def _varies(column: Floats) -> bool:
    return bool(np.ptp(column[np.isfinite(column)]) > 0)


def _quantiles(stated: Floats) -> tuple[float, ...]:
    ordered = np.sort(stated)
    count = min(KNOTS, max(8, len(ordered) // 8))
    return tuple(_short(value) for value in ordered[_quantile_indices(len(ordered), count)].tolist())


def _quantile_indices(people: int, count: int) -> Ints:
    """Returns the indices of the quantiles at the levels (i + 0.5) / count."""
    return ((np.arange(count) + 0.5) / count * people).astype(int)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
