"""Verdicts on cells of the self-test: Holm's adjustment, expected direction, and the sample size for 80 % power."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scipy.stats import norm  # type: ignore[import-untyped]

from eval.fidelity.verdicts import holm
from eval.next_turn.metrics.values import (
    MetricSpec,
)
from eval.next_turn.selftest.planted_table import ALPHA, CLOCK_BOUND, Direction
from eval.next_turn.selftest.selftest_record import (
    PlantedCell,
)
from usersim.stats.estimates import Estimate

POWER = 0.8


def shift_estimate(value: Estimate, null: float) -> Estimate:
    return Estimate(value=value.value - null, low=value.low - null, high=value.high - null, n=value.n)


def planted_cell(
    key: str, value: Estimate, people: float, gap: Estimate, error: float, p: float, unpaired: float | None
) -> PlantedCell:
    return PlantedCell(
        key=key,
        value=value,
        people=people,
        difference=gap,
        error=error,
        z=gap.value / error if error > 1e-12 else None,
        p=p,
        p_holm=p,
        p_unpaired=unpaired,
        is_meant=False,
        is_caught=False,
    )


def adjust_cells(cells: Sequence[PlantedCell]) -> list[PlantedCell]:
    """Cells with Holm's adjustment over all of them; unpaired p are adjusted separately."""
    paired = holm([cell.p for cell in cells])
    has_unpaired = [cell for cell in cells if cell.p_unpaired is not None]
    unpaired = dict(
        zip(
            [cell.key for cell in has_unpaired],
            holm([cell.p_unpaired or 0.0 for cell in has_unpaired]),
            strict=True,
        )
    )
    return [
        cell.model_copy(update={"p_holm": p, "p_unpaired_holm": unpaired.get(cell.key)})
        for cell, p in zip(cells, paired, strict=True)
    ]


def judge_cell(cell: PlantedCell, direction: Direction | None, scale: float, tests: int) -> PlantedCell:
    """Cell with its verdict, and the n at which it would be detected as the smallest p of all `tests`."""
    is_caught = cell.p_holm < ALPHA
    if direction in ("lower", "above") or direction == "higher":
        sign = -1 if direction == "lower" else 1
        is_caught = is_caught and sign * cell.difference.value > 0
    elif direction == "bounded":
        is_caught = cell.value.high < CLOCK_BOUND
    needed = None if is_caught or direction is None else _needed_n(cell, direction, scale, tests)
    return cell.model_copy(
        update={"is_meant": direction is not None, "is_caught": is_caught, "needed_n": needed}
    )


def _needed_n(cell: PlantedCell, direction: Direction, scale: float, tests: int) -> int | None:
    """Conversations for 80 % power, from the effect and its standard error; None if the effect has the wrong sign."""
    error, effect = cell.error, cell.difference.value
    if direction == "bounded":
        effect, threshold = CLOCK_BOUND - cell.value.value, float(norm.ppf(0.975))
    else:
        effect = -effect if direction == "lower" else abs(effect) if direction == "different" else effect
        threshold = float(norm.isf(ALPHA / tests / 2))
    if effect <= 0 or error <= 0:
        return None
    needed = cell.difference.n * ((threshold + float(norm.ppf(POWER))) * error / effect) ** 2
    return math.ceil(needed * scale)


def both_scorers_caught(cells: Sequence[PlantedCell], specs: Mapping[str, MetricSpec]) -> bool | None:
    """True if both scorers of one number meant for the user detected it; None if no number has two scorers."""
    by_number: dict[str, list[bool]] = {}
    for cell in cells:
        scorer = specs[cell.key].scorer
        if scorer is not None:
            name = ".".join(part for part in cell.key.split(".") if part != scorer)
            by_number.setdefault(name, []).append(cell.is_caught)
    twice = [flags for flags in by_number.values() if len(flags) > 1]
    return any(map(all, twice)) if twice else None
