"""Counts of numbers in bounded memory, close enough for quantiles and plots."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import ceil, log2
from typing import Any

EXACT, PER_DOUBLING = 32, 16
"""Largest number counted exactly, and bins per doubling above it."""
PRECISION = (
    "whole numbers up to 32 exactly, others up to 32 to a tenth, shares to a hundredth; a larger number counts "
    "as the middle of one of 16 bins per doubling, at most 2.2 % off"
)

TURNS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50)
"""Upper ends of the bins: 0, 1, 2 … 10, 11 to 12, 13 to 15 … An open bin follows the last."""
FEW = (0, 1, 2, 3, 4, 5, 6, 8, 12, 20)
WORDS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CHARACTERS = (125, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 1_000_000)
GROUPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.99, 1.0)
"""Bins of shares: never, five bins between, always."""
NUMBERS = (0.0, 0.5, 1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1024)


def rounded(value: float) -> float:
    """Rounds `value` to the number that is counted; never across a power of two."""
    if value <= EXACT:
        return round(value, 1)
    return float(round(2 ** ((ceil(PER_DOUBLING * log2(value)) - 0.5) / PER_DOUBLING), 1))


def summarise(counts: Mapping[float, int], edges: Sequence[float]) -> dict[str, Any]:
    """Returns the histogram and quantiles of counted values.

    Args:
        counts: number of occurrences by value.
        edges: upper ends of the bins.

    Returns:
        `n`, `p10`, `median` and `p90`, and `bins` and `counts` for a plot.
    """
    ordered = sorted(counts)
    cumulative = list(accumulate(counts[value] for value in ordered))
    total = cumulative[-1] if cumulative else 0
    binned = [0] * (len(edges) + 1)
    for value in ordered:
        binned[bisect_left(edges, value)] += counts[value]

    def value_at(rank: int) -> float:
        return ordered[bisect_left(cumulative, rank + 1)]

    quantiles: dict[str, float | None] = {"p10": None, "median": None, "p90": None}
    if total:
        # The median averages the two middle values; the other quantiles are values that occur.
        middle = (value_at((total - 1) // 2) + value_at(total // 2)) / 2
        quantiles = {"p10": value_at(int(0.1 * total)), "median": middle, "p90": value_at(int(0.9 * total))}
    return {
        "n": total,
        **{name: value if value is None else round(value, 2) for name, value in quantiles.items()},
        "bins": bin_names(edges),
        "counts": binned,
    }


def bin_names(edges: Sequence[float]) -> list[str]:
    """Returns the labels of the bins that end at `edges`, and of the open bin above them."""
    if tuple(edges) == SHARES:
        return ["0 %", "≤ 20", "≤ 40", "≤ 60", "≤ 80", "< 100", "100 %", "> 100"]
    if any(edge != int(edge) for edge in edges):
        return [f"{edges[0]:g}", *(f"≤ {edge:,g}" for edge in edges[1:]), f"> {edges[-1]:,g}"]
    first = f"{edges[0]:,}" if edges[0] <= 1 else f"≤ {edges[0]:,}"
    spans = [
        f"{high:,}" if high - low == 1 else f"{low + 1:,}–{high:,}"  # noqa: RUF001
        for low, high in pairwise(edges)
    ]
    return [first, *spans, f"> {edges[-1]:,}"]


def top(counts: Counter[str], most: int) -> dict[str, int]:
    """Returns the `most` most frequent names, ties by name; the others are summed as `other`."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    frequent = dict(ranked[:most])
    rest = sum(count for _, count in ranked[most:])
    if rest:
        frequent["other"] = frequent.get("other", 0) + rest
    return frequent
