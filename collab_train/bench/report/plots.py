"""Plots of the report: differences to a reference as dots with whiskers, and a measure over the window w."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from collab_train.bench.measures.intervals import IntervalEstimate

WIDTH, HEIGHT, LEFT, BASE, TOP = 420, 220, 44, 184, 12
COLOURS = 6
STYLE = """
.zero { top: 0; bottom: 0; width: 1px; background: var(--soft); }
.plot path { fill: none; stroke: var(--own); stroke-width: 2; }
.plot circle { fill: var(--own); }
.plot line.bar { stroke: var(--own); stroke-width: 1.5; }
"""


def colour(index: int) -> str:
    return f"c{index % COLOURS}"


def format_estimate(estimate: IntervalEstimate, digits: int, *, signed: bool = False) -> str:
    """Formats an estimate: 0.31 (0.28 to 0.35), or only the value without an interval."""
    sign = "+" if signed else ""
    value = f"{estimate.value:{sign}.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({estimate.low:{sign}.{digits}f} to {estimate.high:{sign}.{digits}f})"


def differences(rows: Sequence[tuple[str, str, IntervalEstimate]], *, digits: int = 3) -> str:
    """HTML of differences on one axis that includes 0; each row is (name, CSS class, difference)."""
    if not rows:
        return ""
    ends = [end for _, _, gap in rows for end in (*_ends(gap), 0.0)]
    low, high = min(ends), max(ends)
    width = (high - low) or 1.0

    def at(value: float) -> float:
        return round(4 + 92 * (value - low) / width, 2)

    return "".join(
        f'<div class="row {style}"><div class="name">{escape(name)}</div><div class="track">'
        f'<i class="zero" style="left:{at(0.0)}%"></i><div class="lane" style="top:50%">'
        f'<i class="whisker" style="left:{at(_ends(gap)[0])}%;width:{at(_ends(gap)[1]) - at(_ends(gap)[0]):.2f}%"></i>'
        f'<i class="dot" style="left:{at(gap.value)}%"></i></div></div>'
        f'<div class="values"><b>{escape(format_estimate(gap, digits, signed=True))}</b> n = {gap.n}</div></div>'
        for name, style, gap in rows
    )


def over_window(label: str, series: Mapping[str, Sequence[tuple[int, IntervalEstimate]]]) -> str:
    """SVG with one line per series of (w, estimate), and the legend."""
    points = [point for series_points in series.values() for point in series_points]
    ends = [end for _, estimate in points for end in _ends(estimate)]
    low, high, last = min(ends), max(ends), max(w for w, _ in points) or 1
    margin = 0.08 * (high - low) or 0.5

    def x(w: int) -> float:
        return LEFT + 14 + (WIDTH - LEFT - 30) * w / last

    def y(value: float) -> float:
        return BASE - (BASE - TOP) * (value - low + margin) / (high - low + 2 * margin)

    lines = "".join(
        _series(sorted(series_points), colour(i), x, y) for i, series_points in enumerate(series.values())
    )
    ticks = "".join(
        f'<text x="{x(w):.1f}" y="{BASE + 15}" text-anchor="middle">{w}</text>'
        for w in sorted({w for w, _ in points})
    )
    marks = "".join(
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{LEFT - 5}" y="{y(v) + 3:.1f}" text-anchor="end">{v:.3f}</text>'
        for v in (low, (low + high) / 2, high)
    )
    legend = "".join(
        f'<span class="{colour(i)}"><i></i>{escape(name)}</span>' for i, name in enumerate(series)
    )
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{marks}{lines}{ticks}"
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 6}" text-anchor="middle">w</text></svg><div class="key">{legend}</div>'
    )


def _series(
    points: Sequence[tuple[int, IntervalEstimate]],
    style: str,
    x: Callable[[int], float],
    y: Callable[[float], float],
) -> str:
    line = " L".join(f"{x(w):.1f} {y(mean.value):.1f}" for w, mean in points)
    marks = "".join(
        f'<line class="bar" x1="{x(w):.1f}" x2="{x(w):.1f}" y1="{y(_ends(mean)[0]):.1f}" y2="{y(_ends(mean)[1]):.1f}"/>'
        f'<circle cx="{x(w):.1f}" cy="{y(mean.value):.1f}" r="4"/>'
        for w, mean in points
    )
    return f'<g class="{style}"><path d="M{line}"/>{marks}</g>'


def _ends(estimate: IntervalEstimate) -> tuple[float, float]:
    return (
        (estimate.value, estimate.value)
        if estimate.low is None or estimate.high is None
        else (estimate.low, estimate.high)
    )
