"""Sampling of users from a fitted population, in plain Python, so that a server needs no numerical library."""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from statistics import NormalDist

from usersim.errors import ConfigError
from usersim.populations.record import (
    ATTRIBUTES,
    LEVELS,
    NOT_STATED,
    STATED,
    TRAIT,
    PatienceStratum,
    PopulationRecord,
    RankScale,
)
from usersim.populations.traits import EXCLUSIVE, TRAITS
from usersim.types import Persona, Style, UserProfile

PER_TURN = frozenset(
    (
        "lowercase_starts",
        "questions",
        "politeness",
        "end_punctuation",
        "imperatives",
        "chat_speak",
        "first_person",
        "expressive_marks",
        "line_breaks",
    )
)
"""Attributes that are shares of turns: for three turns 0, 1/3, 2/3 or 1."""
SMOOTH = frozenset(("words_per_turn", "opening_words", "typos", "code_share", "length_spread"))
"""Continuous attributes, which are perturbed if a user is too near a person."""
NUDGES, REDRAWS = 10, 100
"""Number of perturbations of a user too near a person, each larger, and of new samples after that."""
NUDGE = 0.04
"""Standard deviation of the first perturbation of a latent normal."""
_NORMAL = NormalDist()


class Population:
    """Fitted population of users.

    Example:
        population = usersim.population()
        for profile in population.sample(100, seed=0):
            turn = usersim.sample(goal="plan a trip", persona=profile.persona)
    """

    def __init__(self, record: PopulationRecord) -> None:
        self.record = record
        self._factors = [_cholesky(stratum) for stratum in record.strata]

    @property
    def distance(self) -> float:
        """Minimum distance between a sampled user's style and that of each fitted person.

        The distance is the largest difference over attributes. Its unit is a value's rank among the fitted people (0 to
        1). An attribute stated by only one of the two counts as 1.
        """
        return self.record.distance

    def sample(self, n: int, seed: int = 0) -> list[UserProfile]:
        """Samples users without a goal. Personas have a description, a style, and patience as `style.turns`.

        User i depends only on the seed and i, so a larger `n` begins with the same users.

        Args:
            n: Number of users.
            seed: Seed of the sample.

        Raises:
            ConfigError: `n` is negative, or no user at the minimum distance could be sampled.
        """
        if n < 0:
            raise ConfigError(f"n={n}: must not be negative")
        return [self._draw(random.Random(f"{seed}:{index}")) for index in range(n)]

    def nearest_distances(self, styles: Sequence[Style]) -> list[float]:
        """Returns the distance of each style to the nearest fitted person; see `distance`. Needs numpy.

        Ranks are stored in steps of 1/254, so each result is exact to half a step.
        """
        import numpy as np

        rows_PA = np.array([list(row) for row in self._rows], dtype=float)
        rows_PA[rows_PA == NOT_STATED] = np.nan
        rows_PA /= LEVELS
        out = []
        for style in styles:
            own_A = np.array([np.nan if rank is None else rank for rank in self._ranks(style)])
            gaps_PA = np.abs(rows_PA - own_A)
            one_states = np.isnan(rows_PA) != np.isnan(own_A)
            out.append(float(np.where(one_states, 1.0, np.nan_to_num(gaps_PA)).max(axis=1).min()))
        return out

    def _draw(self, rng: random.Random) -> UserProfile:
        strata = self.record.strata
        index = rng.choices(range(len(strata)), [stratum.share for stratum in strata])[0]
        stratum, factor = strata[index], self._factors[index]
        for _ in range(REDRAWS):
            normals = _correlated(factor, rng)
            base_latent = dict(zip(stratum.columns, normals, strict=True))
            for nudge in range(NUDGES):
                moves = {
                    name: rng.gauss(0, NUDGE * nudge) for name in base_latent if nudge and name in SMOOTH
                }
                latent = {name: value + moves.get(name, 0.0) for name, value in base_latent.items()}
                style = self._style(stratum, latent)
                if not self._is_near(style):
                    return UserProfile(
                        persona=Persona(description=_description(stratum, latent), style=style)
                    )
        raise ConfigError(
            f"no user farther than {self.distance} from every person could be sampled; fit with a smaller distance"
        )

    def _style(self, stratum: PatienceStratum, latent: dict[str, float]) -> Style:
        values: dict[str, float | None] = {}
        for name, knots in stratum.marginals.items():
            is_stated = name not in _absent(stratum, latent)
            values[name] = _quantile(knots, _NORMAL.cdf(latent.get(name, 0.0))) if is_stated else None
        turns = max(stratum.first_turns, round(values.get("turns") or stratum.first_turns))
        values["turns"] = float(turns) if self.record.states_patience else None
        for name, value in values.items():
            if value is None or name == "turns":
                continue
            shared_by = turns if name in PER_TURN else turns - 1 if name == "pushback" else 0
            values[name] = round(value * shared_by) / shared_by if shared_by else round(value, 3)
        if turns == 1 and "words_per_turn" in values:
            values["opening_words"] = values["words_per_turn"]
        return Style(**values)

    def _is_near(self, style: Style) -> bool:
        """Returns True if a fitted person may be within the minimum distance, given that ranks are rounded."""
        ranks = self._ranks(style)
        reach = self.distance + 0.5 / LEVELS
        first = ranks[0]
        if first is None:
            low, high = bisect_left(self._rows, bytes([NOT_STATED])), len(self._rows)
        else:
            low = bisect_left(self._rows, bytes([max(0, math.ceil((first - reach) * LEVELS))]))
            high = bisect_right(
                self._rows, bytes([min(LEVELS, int((first + reach) * LEVELS))]) + b"\xff" * len(ATTRIBUTES)
            )
        return any(_is_within(ranks, self._rows[row], reach) for row in range(low, high))

    def _ranks(self, style: Style) -> list[float | None]:
        scales = self.record.scales
        return [
            None
            if (value := getattr(style, name)) is None or name not in scales
            else _interpolate(value, scales[name])
            for name in self._compared
        ]

    @cached_property
    def _compared(self) -> tuple[str, ...]:
        return ATTRIBUTES if self.record.states_patience else tuple(n for n in ATTRIBUTES if n != "turns")

    @cached_property
    def _rows(self) -> list[bytes]:
        indices = [ATTRIBUTES.index(name) for name in self._compared]
        return sorted(bytes(row[i] for i in indices) for row in self.record.style_rows())


def _absent(stratum: PatienceStratum, latent: dict[str, float]) -> set[str]:
    """Returns the attributes that this user does not state."""
    return {
        name.removeprefix(STATED)
        for name in stratum.shares
        if name.startswith(STATED) and not _has(stratum, latent, name)
    }


def _has(stratum: PatienceStratum, latent: dict[str, float], name: str) -> bool:
    """Returns the user's value of a binary column: True in the upper tail of its latent normal."""
    share = stratum.shares[name]
    return _NORMAL.cdf(latent[name]) > 1 - share if name in latent else share >= 0.5


def _description(stratum: PatienceStratum, latent: dict[str, float]) -> str:
    traits = [
        trait for trait in TRAITS if TRAIT + trait in stratum.shares and _has(stratum, latent, TRAIT + trait)
    ]
    for group in EXCLUSIVE:
        rivals = [trait for trait in group if trait in traits]
        for trait in sorted(rivals, key=lambda trait: latent.get(TRAIT + trait, 0.0))[:-1]:
            traits.remove(trait)
    return ", ".join(traits)


def _quantile(knots: Sequence[float], level: float) -> float:
    """Returns the quantile at a level, linear between the knots at (i + 0.5) / k and constant beyond them."""
    position = level * len(knots) - 0.5
    below = min(max(math.floor(position), 0), len(knots) - 1)
    above = min(below + 1, len(knots) - 1)
    weight = min(max(position - below, 0.0), 1.0)
    return knots[below] + weight * (knots[above] - knots[below])


def _interpolate(value: float, scale: RankScale) -> float:
    position = bisect_right(scale.values, value)
    if position == 0 or position == len(scale.values):
        return scale.ranks[0 if position == 0 else -1]
    low, high = scale.values[position - 1], scale.values[position]
    weight = (value - low) / (high - low)
    return scale.ranks[position - 1] + weight * (scale.ranks[position] - scale.ranks[position - 1])


def _is_within(ranks: Sequence[float | None], row: bytes, reach: float) -> bool:
    for rank, step in zip(ranks, row, strict=True):
        if rank is None or step == NOT_STATED:
            if rank is not None or step != NOT_STATED:
                return False
        elif abs(rank - step / LEVELS) > reach:
            return False
    return True


def _cholesky(stratum: PatienceStratum) -> list[list[float]]:
    """Returns the rows of the lower Cholesky factor of the latent correlation matrix."""
    factor: list[list[float]] = []
    values = iter(stratum.correlation)
    for index in range(len(stratum.columns)):
        row: list[float] = []
        for column in range(index):
            projection = sum(row[k] * factor[column][k] for k in range(column))
            row.append((next(values) - projection) / factor[column][column])
        row.append(math.sqrt(max(1e-6, 1 - sum(value * value for value in row))))
        factor.append(row)
    return factor


def _correlated(factor: Sequence[Sequence[float]], rng: random.Random) -> list[float]:
    normals = [rng.gauss(0, 1) for _ in factor]
    return [sum(weight * normal for weight, normal in zip(row, normals, strict=False)) for row in factor]
