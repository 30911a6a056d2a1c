"""Curves as inline SVG: a course with the human band behind it, or bars where the points are separate things."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from usersim.stats.estimates import Estimate

Points = Sequence[Estimate | None]
Named = tuple[str, str, Points]
"""(name, class of its colour, values); humans come first."""
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
"""Paths around the origin."""


@dataclass(frozen=True)
class Scale:
    low: float
    high: float
    step: float

    @classmethod
    def over(cls, series: Sequence[Named], *, intervals: bool = True) -> Scale:
        """From zero, or from below it, to a round number above everything."""
        known = [e for _, _, values in series for e in values if e]
        low = min([0.0, *(e.low if intervals else e.value for e in known)])
        high = max([1e-6, *(e.high if intervals else e.value for e in known)])
        step = _round_step((high - low) / 4)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step)

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def course(label: str, x: Sequence[str], axes: tuple[str, str], series: Sequence[Named]) -> str:
    """Lines over `x`; the interval is a band for humans and a bar for the others; a gap where nothing is known."""
    scale, slot = Scale.over(series), (WIDTH - LEFT - RIGHT) / len(x)
    drawn = []
    for place, (name, style, values) in enumerate(series):
        # Side by side, so that bars of equal values do not hide each other.
        shift = 0.0 if style == "human" else min(4.0, slot / 8) * (place - len(series) / 2)
        points = [
            _point(LEFT + slot * (i + 0.5) + shift, found, scale, _said(name, x[i], found)) if found else None
            for i, found in enumerate(values)
        ]
        drawn.append(f'<g class="{style}">{_line(style, points)}</g>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}; numbers in the table below">'
        f"{_grid(scale)}{_axes(x, axes, slot)}{''.join(drawn)}</svg>"
    )


def _height(value: float, scale: Scale) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - scale.share(value))


def _grid(scale: Scale) -> str:
    return "".join(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{_height(t, scale):.1f}" y2="{_height(t, scale):.1f}"/>'
        f'<text x="{LEFT - 5}" y="{_height(t, scale) + 3:.1f}" text-anchor="end">{round(t, 9):g}</text>'
        for t in scale.ticks()
    )


def _axes(x: Sequence[str], axes: tuple[str, str], slot: float) -> str:
    """As many names of points as there is room for, and what the axes are."""
    every = max(1, math.ceil(max(map(len, x)) * 6 / slot))
    names = "".join(
        f'<text x="{LEFT + slot * (i + 0.5):.1f}" y="{HEIGHT - BOTTOM + 13}" text-anchor="middle">'
        f"{escape(name)}</text>"
        for i, name in enumerate(x)
        if i % every == 0
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
    said: str
    """For the pointer."""


def _point(x: float, found: Estimate, scale: Scale, said: str) -> Point:
    y, low, high = (_height(value, scale) for value in (found.value, found.low, found.high))
    return Point(x=x, y=y, low=low, high=high, said=said)


def _said(name: str, x: str, found: Estimate) -> str:
    return f"{name}, {x}: {found.value:.3g} [{found.low:.3g}, {found.high:.3g}], n {found.n}"


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
    """Neighbours that are known."""
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
    """A marker with the shape of its series, so that colour is not the only difference."""
    return (
        f'<path class="mark" transform="translate({p.x:.1f} {p.y:.1f})" d="{SHAPES[style]}">'
        f"<title>{escape(p.said)}</title></path>"
    )


def bars(label: str, x: Sequence[str], series: Sequence[Named]) -> str:
    """Lying bars, a group per category, with the interval as a line and the value at the end."""
    scale, wide = Scale.over(series), WIDTH - 44
    group = 17 + (BAR + 2) * len(series)
    drawn = []
    for row, name in enumerate(x):
        drawn.append(f'<text class="name" x="0" y="{group * row + 11}">{escape(name)}</text>')
        for place, (who, style, values) in enumerate(series):
            y = group * row + 15 + (BAR + 2) * place
            drawn.append(f'<g class="{style}">{_bar(who, name, values[row], scale, wide, y)}</g>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {group * len(x) + 4}" role="img" '
        f'aria-label="{escape(label)}; numbers in the table below">{"".join(drawn)}</svg>'
    )


def _bar(who: str, name: str, found: Estimate | None, scale: Scale, wide: int, y: int) -> str:
    zero = wide * scale.share(0.0)
    if found is None:
        return f'<text x="{zero + 4:.1f}" y="{y + BAR - 1}">–</text>'  # noqa: RUF001
    end, low, high = (wide * scale.share(v) for v in (found.value, found.low, found.high))
    middle = y + BAR / 2
    return (
        f'<rect class="bar" x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="{BAR}" rx="1">'
        f"<title>{escape(_said(who, name, found))}</title></rect>"
        f'<line class="over" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<text x="{max(high, end, zero) + 4:.1f}" y="{y + BAR - 1}">{found.value:.2f}</text>'
    )
