"""SVG plots of the model report: reliability of P(end), disclosure by turn, leakage matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

SIDE, EDGE = 190, 26
STYLE = """
.figures { display: flex; flex-wrap: wrap; gap: 1rem; }
.figures figure { margin: 0; width: 15rem; }
.heat td { text-align: center; min-width: 3.1rem; padding: .25rem; font-size: .85rem; }
.heat th { font-weight: 500; font-size: .8rem; text-align: left; vertical-align: bottom; }
.heat td.own { outline: 2px solid currentColor; outline-offset: -2px; }
svg path.line { fill: none; stroke: var(--own); stroke-width: 2; }
svg circle { fill: var(--own); }
"""


def reliability(title: str, bins: Sequence[tuple[float, float, int]]) -> str:
    """Reliability diagram of P(end) as an SVG figure.

    Args:
        title: Caption.
        bins: (mean predicted probability, share of ends, count) of each bin; circle areas follow the counts.
    """
    most = max((n for _, _, n in bins), default=1)
    dots = "".join(
        f'<circle class="c0" cx="{_x(p):.1f}" cy="{_y(share):.1f}" r="{2 + 8 * (n / most) ** 0.5:.1f}" '
        f'fill-opacity="0.7"><title>P(end) {p:.2f}: left {share:.2f}, n = {n}</title></circle>'
        for p, share, n in bins
    )
    axes = (
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke-dasharray="4 4"/>'
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(0)}"/>'
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(0)}" y2="{_y(1)}"/>'
        f'<text x="{_x(0.5)}" y="{SIDE + EDGE - 4}" text-anchor="middle">P(end)</text>'
        f'<text x="4" y="{_y(1) + 3}">left</text>'
    )
    box = f"0 0 {SIDE + EDGE + 8} {SIDE + EDGE}"
    return (
        f'<figure><svg viewBox="{box}" role="img" aria-label="reliability of P(end)">{axes}{dots}</svg>'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def _x(value: float) -> float:
    return EDGE + value * (SIDE - 8)


def _y(value: float) -> float:
    return 8 + (1 - value) * (SIDE - 16)


def curves(series: Mapping[str, Sequence[float]]) -> str:
    """Line plot of shares by turn; the first series has the colour of people."""
    lines, names = [], []
    for index, (name, values) in enumerate(series.items()):
        style = "human" if index == 0 else f"c{(index - 1) % 4}"
        step = 1 / max(1, len(values) - 1)
        points = " L".join(f"{_x(i * step):.1f} {_y(value):.1f}" for i, value in enumerate(values))
        lines.append(f'<path class="line {style}" d="M{points}"><title>{escape(name)}</title></path>')
        names.append(f'<text x="{SIDE + EDGE + 8}" y="{_y(values[-1]) + 3:.1f}">{escape(name)}</text>')
    axes = (
        f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(0)}"/>'
        f'<text x="{_x(0)}" y="{SIDE + EDGE - 6}">turn 1</text>'
        f'<text x="{_x(1)}" y="{SIDE + EDGE - 6}" text-anchor="end">turn {len(next(iter(series.values())))}</text>'
    )
    return (
        f'<div class="figures"><figure style="width:30rem"><svg viewBox="0 0 {2 * SIDE + EDGE} {SIDE + EDGE}" '
        f'role="img" aria-label="facets revealed by turn">{axes}{"".join(lines + names)}</svg></figure></div>'
    )


def heatmap(matrix: Mapping[str, Mapping[str, float]]) -> str:
    """Table of Spearman correlations from -1 (blue) to 1 (red); the cell of the requested attribute is framed."""
    columns = list(dict.fromkeys(name for row in matrix.values() for name in row))
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{escape(attribute.replace('_', ' '))}</th>"
        + "".join(_heat(row.get(name), own=_own(attribute) == name) for name in columns)
        + "</tr>"
        for attribute, row in matrix.items()
    )
    return f'<div class="scroll"><table class="heat"><tr><th></th>{head}</tr>{body}</table></div>'


def _own(attribute: str) -> str:
    return "words_per_turn" if attribute == "opening_words" else attribute


def _heat(value: float | None, *, own: bool) -> str:
    style = ' class="own"' if own else ""
    if value is None:
        return f"<td{style}>–</td>"  # noqa: RUF001
    colour = "220,60,40" if value > 0 else "40,100,220"
    return f'<td{style} style="background:rgba({colour},{min(1.0, abs(value)):.2f})">{value:.2f}</td>'
