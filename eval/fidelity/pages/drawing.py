"""Inline SVG of curves: lines with the human band behind them, or bars for separate categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from usersim.stats.estimates import Estimate

Points = Sequence[Estimate | None]
NamedSeries = tuple[str, str, Points]
"""(name, CSS class of its colour, values); humans come first."""
WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 38, 10, 22, 34
BAR = 9
SHAPES = {
    "human": "M-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0 -5 0",
    "c0": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "c1": "M-3.5 -3.5h7v7h-7z",
    "c2": "M0 -5L5 0L0 5L-5 0z",
    "c3": "M0 -4.5L4.5 4H-4.5z",
    "c4": "M0 4.5L4.5 -4H-4.5z",
    "c5": "M-1.5 -5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
}
"""SVG paths of the markers, around the origin."""


@dataclass(frozen=True)
class AxisScale:
    low: float
    high: float
    step: float

    @classmethod
    def over(cls, series: Sequence[NamedSeries], *, intervals: bool = True) -> AxisScale:
        """Returns a scale from zero, or the smallest value below it, to a round number above all values."""
        estimates = [e for _, _, values in series for e in values if e]
        low = min([0.0, *(e.low if intervals else e.value for e in estimates)])
        high = max([1e-6, *(e.high if intervals else e.value for e in estimates)])
        step = _round_step((high - low) / 4)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step)

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]


def _round_step(rough: float) -> float:
    """Returns the next larger of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def course(label: str, x: Sequence[str], axes: tuple[str, str], series: Sequence[NamedSeries]) -> str:
    """Draws lines over `x`. The interval is a band for humans and a bar for the others; unknown points leave a gap."""
    scale, slot = AxisScale.over(series), (WIDTH - LEFT - RIGHT) / len(x)
    groups = []
    for index, (name, style, values) in enumerate(series):
        # Side by side, so that bars of equal values do not hide each other.
        shift = 0.0 if style == "human" else min(4.0, slot / 8) * (index - len(series) / 2)
        points = [
            _point(LEFT + slot * (i + 0.5) + shift, value, scale, _point_label(name, x[i], value))
            if value
            else None
            for i, value in enumerate(values)
        ]
        groups.append(f'<g class="{style}">{_line(style, points)}</g>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}; numbers in the table below">'
        f"{_grid(scale)}{_axes(x, axes, slot)}{''.join(groups)}</svg>"
    )


def _height(value: float, scale: AxisScale) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - scale.share(value))


def _grid(scale: AxisScale) -> str:
    return "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_height(t, scale):.1f}" y2="{_height(t, scale):.1f}"/>'
        f'<text x="{LEFT - 5}" y="{_height(t, scale) + 3:.1f}" text-anchor="end">{round(t, 9):g}</text>'
        for t in scale.ticks()
    )


def _axes(x: Sequence[str], axes: tuple[str, str], slot: float) -> str:
    """Draws the axis labels and as many point names as fit."""
    stride = max(1, math.ceil(max(map(len, x)) * 6 / slot))
    names = "".join(
        f'<text x="{LEFT + slot * (i + 0.5):.1f}" y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">'
        f"{escape(name)}</text>"
        for i, name in enumerate(x)
        if i % stride == 0
    )
    x_label, y_label = map(escape, axes)
    return (
        f'{names}<text x="{LEFT}" y="{TOP - 10}">{y_label}</text>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{x_label}</text>'
    )


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    low: float
    high: float
    label: str
    """Text of the tooltip."""


def _point(x: float, value: Estimate, scale: AxisScale, label: str) -> Point:
    y, low, high = (_height(bound, scale) for bound in (value.value, value.low, value.high))
    return Point(x=x, y=y, low=low, high=high, label=label)


def _point_label(name: str, x: str, value: Estimate) -> str:
    return f"{name}, {x}: {value.value:.3g} [{value.low:.3g}, {value.high:.3g}], n {value.n}"


def _line(style: str, points: Sequence[Point | None]) -> str:
    runs, band = _runs(points), style == "human"
    lines = "".join(
        f'<path class="line" d="M{" L".join(f"{p.x:.1f} {p.y:.1f}" for p in run)}"/>'
        for run in runs
        if len(run) > 1
    )
    marks = "".join(mark(style, p) for run in runs for p in run)
    if band:
        spread = "".join(_band(run) if len(run) > 1 else _whisker(run[0]) for run in runs)
    else:
        spread = "".join(_whisker(p) for run in runs for p in run)
    return spread + lines + marks


def _runs(points: Sequence[Point | None]) -> list[list[Point]]:
    """Splits the points into runs without unknown points."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point:
            runs[-1].append(point)
        else:
            runs.append([])
    return [run for run in runs if run]


def _band(run: Sequence[Point]) -> str:
    edge = [f"{p.x:.1f} {p.high:.1f}" for p in run] + [f"{p.x:.1f} {p.low:.1f}" for p in reversed(run)]
    return f'<path class="area" d="M{" L".join(edge)} Z"/>'


def _whisker(p: Point) -> str:
    return f'<line class="whisk" x1="{p.x:.1f}" x2="{p.x:.1f}" y1="{p.low:.1f}" y2="{p.high:.1f}"/>'


def mark(style: str, p: Point) -> str:
    """Draws a marker with the shape of its series, so that colour is not the only difference."""
    return (
        f'<path class="mark" transform="translate({p.x:.1f} {p.y:.1f})" d="{SHAPES[style]}">'
        f"<title>{escape(p.label)}</title></path>"
    )


def bars(label: str, x: Sequence[str], series: Sequence[NamedSeries]) -> str:
    """Draws horizontal bars, a group per category, with the interval as a line and the value at the end."""
    scale, wide = AxisScale.over(series), WIDTH - 44
    group = 17 + (BAR + 2) * len(series)
    parts = []
    for row, name in enumerate(x):
        parts.append(f'<text class="name" x="0" y="{group * row + 11}">{escape(name)}</text>')
        for index, (series_name, style, values) in enumerate(series):
            y = group * row + 15 + (BAR + 2) * index
            parts.append(f'<g class="{style}">{_bar(series_name, name, values[row], scale, wide, y)}</g>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {group * len(x) + 4}" role="img" '
        f'aria-label="{escape(label)}; numbers in the table below">{"".join(parts)}</svg>'
    )


def _bar(series_name: str, name: str, value: Estimate | None, scale: AxisScale, wide: int, y: int) -> str:
    zero = wide * scale.share(0.0)
    if value is None:
        return f'<text x="{zero + 4:.1f}" y="{y + BAR - 1}">–</text>'  # noqa: RUF001
    end, low, high = (wide * scale.share(v) for v in (value.value, value.low, value.high))
    middle = y + BAR / 2
    return (
        f'<rect class="bar" x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="{BAR}" rx="1">'
        f"<title>{escape(_point_label(series_name, name, value))}</title></rect>"
        f'<line class="over" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<text x="{max(high, end, zero) + 4:.1f}" y="{y + BAR - 1}">{value.value:.2f}</text>'
    )
