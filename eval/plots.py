"""The report's own plots: a value beside its floor, and how an attribute is distributed."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from eval.estimates import Estimate, Figure
from eval.report import FeatureShape
from usersim.plots import histogram, share_bars


def number(value: float, unit: str = "") -> str:
    """Three figures where they matter; JSD is small."""
    return f"{value:.4f}" if unit.startswith("JSD") else f"{value:.2f}"


def estimate(found: Estimate, unit: str = "") -> str:
    low, high = number(found.low, unit), number(found.high, unit)
    return f"<b>{number(found.value, unit)}</b> <small>[{low}, {high}]</small>"


def track(figures: Sequence[Figure]) -> str:
    """One row: the floor's band and median, and for each simulator its value with interval."""
    floor = figures[0].floor
    low, high = _range(figures)

    def at(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    lanes = "".join(
        f'<span class="lane c{index}" style="top:{_lane(index, len(figures))}%">'
        f'<i class="whisker" style="left:{at(f.value.low)}%;width:{at(f.value.high) - at(f.value.low):.2f}%"></i>'
        f'<i class="dot" style="left:{at(f.value.value)}%"></i></span>'
        for index, f in enumerate(figures)
    )
    # The band runs to the end of the axis that is closer to human than any human is.
    left, right = (0.0, at(floor.high)) if figures[0].worse == "higher" else (at(floor.low), 100.0)
    return (
        f'<div class="track" role="img" aria-label="{escape(_spoken(figures))}">'
        f'<i class="band" style="left:{left}%;width:{max(right - left, 0.6):.2f}%"></i>'
        f'<i class="median" style="left:{at(floor.median)}%"></i>{lanes}'
        f'<small class="from">{low:g}</small><small class="to">{number(high, figures[0].unit)}</small></div>'
    )


def _range(figures: Sequence[Figure]) -> tuple[float, float]:
    highest = max([f.value.high for f in figures] + [figures[0].floor.high])
    lowest = min([f.value.low for f in figures] + [figures[0].floor.low])
    if figures[0].unit == "AUC":
        return min(0.3, round(lowest, 1)), 1.0
    if figures[0].most == 1.0 and figures[0].worse == "lower":
        return 0.0, 1.0
    return 0.0, max(highest * 1.04, 1e-3)


def _lane(index: int, lanes: int) -> float:
    return round(100 * (index + 1) / (lanes + 1), 1)


def _spoken(figures: Sequence[Figure]) -> str:
    floor = figures[0].floor
    return f"human floor {floor.low:.3g} to {floor.high:.3g}; values " + ", ".join(
        f"{f.value.value:.3g}" for f in figures
    )


def shares(shape: FeatureShape) -> str:
    """A yes-or-no attribute: one bar of its share for humans and for each simulator."""
    simulated = enumerate(shape.simulated_average.items())
    return share_bars(
        [
            ("human", "human", shape.human_average),
            *((name, f"c{index}", value) for index, (name, value) in simulated),
        ]
    )


def shapes(shape: FeatureShape) -> str:
    """Human first, then the simulators in their order."""
    simulated = enumerate(shape.simulated.values())
    return histogram(
        shape.label, shape.bins, [("human", shape.human), *((f"c{index}", bars) for index, bars in simulated)]
    )
