"""Plots as HTML and inline SVG without script. Colours come from the page's style sheet, for light and dark.

The class of a series sets its colour: `human`, `c0` … `c5`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

WIDTH, HEIGHT, BASE = 320, 132, 104


def percent(value: float) -> str:
    return f"{100 * value:.1f} %" if 0 < value < 0.1 else f"{100 * value:.0f} %"


def share_bars(rows: Iterable[tuple[str, str, float | None]]) -> str:
    """Returns bars for rows of (name, class, share); an unknown share has no bar."""
    return "".join(
        f'<div class="share"><span>{escape(name)}</span>'
        f'<span class="rail"><i class="{style}" style="width:{100 * (value or 0):.1f}%"></i></span>'
        f"<b>{'–' if value is None else percent(value)}</b></div>"  # noqa: RUF001
        for name, style, value in rows
    )


def histogram(label: str, bins: Sequence[str], series: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Returns grouped bars per bin for series of (class, heights). Crowded bins are labelled by their lower edge."""
    top = max(max(bars) for _, bars in series) or 1.0
    slot = WIDTH / len(bins)
    thick = min(14.0, (slot - 3) / len(series))
    marks = []
    crowded = max(map(len, bins)) * 5.5 > slot
    for column, name in enumerate(bins):
        middle = slot * (column + 0.5)
        for index, (style, bars) in enumerate(series):
            tall = bars[column] / top * (BASE - 8)
            x = middle + (index - len(series) / 2) * thick
            marks.append(
                f'<rect class="{style}" x="{x:.1f}" y="{BASE - tall:.1f}" width="{thick - 0.8:.1f}" '
                f'height="{tall:.1f}" rx="1"/>'
            )
        marks.append(
            f'<text x="{middle:.1f}" y="{BASE + 13}" text-anchor="middle">{escape(_tick(name, crowded))}</text>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT - 10}" role="img" aria-label="{escape(label)}">'
        f'<line x1="0" x2="{WIDTH}" y1="{BASE}" y2="{BASE}"/>{"".join(marks)}</svg>'
    )


def _tick(label: str, crowded: bool) -> str:
    return label.replace("+", "–").split("–")[0] if crowded else label  # noqa: RUF001
