"""Plots of the report: values beside the human baseline, and distributions of attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from eval.fidelity.report_record import FeatureShape, floor_widths
from usersim.report.svg import histogram, share_bars
from usersim.stats.estimates import Estimate, Figure

Series = Sequence[tuple[int, Figure]]
"""One metric of several simulators, each with its simulator's index in the report (its colour and shape)."""
COLOURS = 6
WIDEST = 12.0
"""Baseline widths at which the common axis ends."""


def style_of(index: int) -> str:
    return f"c{index % COLOURS}"


def number(value: float, unit: str = "") -> str:
    """Formats with two decimals, or four for Jensen-Shannon divergences; never minus zero."""
    text = f"{value:.{4 if unit.startswith('JSD') else 2}f}"
    return text.lstrip("-") if float(text) == 0 else text


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def estimate(value: Estimate, unit: str = "") -> str:
    low, high = number(value.low, unit), number(value.high, unit)
    return f"<b>{number(value.value, unit)}</b> <small>[{low}, {high}]</small>"


@dataclass(frozen=True)
class Axis:
    """Axis of a plot; values outside are drawn at its ends."""

    low: float
    high: float
    root: bool = False
    """Square-root scale, so that distant values fit beside near ones."""

    def at(self, value: float) -> float:
        """Returns the position in percent of the width."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(100 * (share**0.5 if self.root else share), 2)


def track(series: Series) -> str:
    """Draws the baseline's band and median, and for each simulator its value with interval."""
    first = series[0][1]
    axis, floor = _axis([metric for _, metric in series]), first.floor
    # The band runs to the end of the axis that is closer to human than any human is.
    left, right = (0.0, axis.at(floor.high)) if first.worse == "higher" else (axis.at(floor.low), 100.0)
    placed = [(index, metric.value, metric.value.value) for index, metric in series]
    margin = floor.median + (first.margin if first.worse == "higher" else -first.margin)
    is_visible = axis.low <= margin <= axis.high
    dotted = f'<i class="margin" style="left:{axis.at(margin)}%"></i>' if is_visible else ""
    return (
        f'<div class="track" role="img" aria-label="{escape(_aria_label(series))}">'
        f'<i class="band" style="left:{left}%;width:{max(right - left, 0.6):.2f}%"></i>'
        f'<i class="median" style="left:{axis.at(floor.median)}%"></i>{dotted}{lanes(axis, placed)}'
        f'<small class="from">{number(axis.low, first.unit)}</small>'
        f'<small class="to">{number(axis.high, first.unit)}</small></div>'
    )


def common_track(series: Series) -> str:
    """Draws one metric on the axis of all metrics: baseline widths, where 1 is the edge of human variation."""
    axis = Axis(0.0, WIDEST, root=True)
    placed = []
    for index, metric in series:
        excess = metric.excess
        scale = floor_widths(metric) / excess.value if excess.value else 0.0
        ends = Estimate(value=excess.value, low=excess.low * scale, high=excess.high * scale, n=excess.n)
        placed.append((index, ends, floor_widths(metric)))
    widths_text = ", ".join(f"{widths:.1f}" for _, _, widths in placed)
    return (
        f'<div class="track slim" role="img" aria-label="baseline widths: {widths_text}">'
        f'<i class="band" style="left:0;width:{axis.at(1.0)}%"></i>{lanes(axis, placed)}</div>'
    )


def common_ticks() -> str:
    axis = Axis(0.0, WIDEST, root=True)
    ticks = "".join(f'<small style="left:{axis.at(x)}%">{x}</small>' for x in (0, 1, 2, 4, 8))
    return f'<div class="ticks" aria-hidden="true">{ticks}<small style="left:100%">{WIDEST:g}+</small></div>'


def lanes(axis: Axis, placed: Sequence[tuple[int, Estimate, float]]) -> str:
    """Draws a dot with its interval for each simulator: (index in the report, interval, value)."""
    return "".join(
        f'<span class="lane {style_of(index)}" style="top:{_lane(row, len(placed))}%">'
        f'<i class="whisker" style="left:{axis.at(ends.low)}%;'
        f'width:{axis.at(ends.high) - axis.at(ends.low):.2f}%"></i>'
        f'<i class="dot" style="left:{axis.at(value)}%"></i></span>'
        for row, (index, ends, value) in enumerate(placed)
    )


def _lane(row: int, lanes: int) -> float:
    return round(100 * (row + 1) / (lanes + 1), 1)


def _axis(metrics: Sequence[Figure]) -> Axis:
    highest = max([f.value.high for f in metrics] + [metrics[0].floor.high])
    lowest = min([f.value.low for f in metrics] + [metrics[0].floor.low])
    if metrics[0].unit == "AUC":
        return Axis(min(0.3, round(lowest, 1)), 1.0)
    if metrics[0].most == 1.0 and metrics[0].worse == "lower":
        return Axis(0.0, 1.0)
    margin = max(0.04 * (highest - lowest), 1e-3)
    from_zero = metrics[0].least == 0.0 and lowest < 0.7 * highest
    return Axis(0.0 if from_zero else lowest - margin, highest + margin)


def _aria_label(series: Series) -> str:
    floor = series[0][1].floor
    values = ", ".join(f"{f.value.value:.3g} ({f.verdict})" for _, f in series)
    return f"human baseline {floor.low:.3g} to {floor.high:.3g}; values {values}"


def shares(shape: FeatureShape) -> str:
    """Draws a yes-or-no attribute: one bar of its share for humans and for each simulator."""
    simulated = enumerate(shape.simulated_average.items())
    return share_bars(
        [
            ("human", "human", shape.human_average),
            *((name, style_of(index), value) for index, (name, value) in simulated),
        ]
    )


def shapes(shape: FeatureShape) -> str:
    """Draws the histograms of an attribute: humans first, then the simulators in order."""
    simulated = enumerate(shape.simulated.values())
    return histogram(
        shape.label, shape.bins, [("human", shape.human), *((style_of(i), bars) for i, bars in simulated)]
    )


def key(names: Iterable[str], *, floor: bool = False) -> str:
    """Returns the legend: the baseline's band or humans first, then the simulators."""
    first = '<span><i class="band"></i>human baseline, 95 %</span>'
    human = '<span class="human"><i></i>human</span>'
    simulator_keys = "".join(
        f'<span class="{style_of(i)}"><i></i>{escape(name)}</span>' for i, name in enumerate(names)
    )
    return f'<div class="key">{first if floor else human}{simulator_keys}</div>'
