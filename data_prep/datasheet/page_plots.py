"""Plots of the datasheet: bars of counts, overlaid distributions of splits, and the steps of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from usersim.report.svg import percent

HEIGHT, LEFT, BASE = 150, 2, 124
WIDTH, WIDE = 300, 400
DIGIT = 5.8
"""Width of one tick character in SVG units."""

SAFE_TABLES = ("provenance", "wording_shared_with_user", "dropped", "close_to_held_out")
"""Tables whose keys come from this package, never from the text of people."""

Shape = Mapping[str, Any]
"""`bins` and `counts`, as returned by `data_prep.datasheet.histogram.summarise`."""


def number(value: Any) -> str:
    """Formats a number as `1,234` or `0.25`; None is a dash."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, float) and value != int(value):
        return f"{value:,.0f}" if value > 100 else f"{value:,.2f}" if abs(value) >= 0.01 else f"{value:.2g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else escape(str(value))


def facts(value: Mapping[str, Any], *, text: bool) -> str:
    """Returns a mapping as an HTML table, nested mappings flattened. `text=False` leaves out text written by people."""
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{number(item)}</td></tr>"
        for name, item in _flat(value, text)
    )
    return f'<div class="scroll facts"><table>{rows}</table></div>' if rows else ""


def _flat(value: Mapping[str, Any], text: bool, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            # Keys of any other table may be words that people wrote.
            if text or name in SAFE_TABLES:
                yield from _flat(item, text, f"{above}{name}: ")
        elif isinstance(item, list | tuple):
            if text and item:
                yield above + name, ", ".join(map(str, item))
        elif text or isinstance(item, int | float):
            yield above + name, item


def bars(counts: Mapping[str, int], *, style: str = "human", of: int | None = None) -> str:
    """Returns one bar per name; its length is the share of `of`, or of the largest count."""
    full = of or max(counts.values(), default=0) or 1
    rows = "".join(
        f'<div class="share"><span title="{escape(name)}">{escape(name)}</span>'
        f'<span class="rail"><i class="{style}" style="width:{min(100 * count / full, 100):.1f}%"></i></span>'
        f"<b>{number(count)}</b></div>"
        for name, count in counts.items()
    )
    return f'<div class="bars">{rows}</div>'


def key(names: Sequence[str]) -> str:
    """Returns the colour key of the splits."""
    marks = (f'<span class="c{index % 6}"><i></i>{escape(name)}</span>' for index, name in enumerate(names))
    return f'<div class="key">{"".join(marks)}</div>'


def overlaid(label: str, shapes: Mapping[str, Shape], *, width: int = WIDTH) -> str:
    """Returns one line per split: the share of its total in each bin. Colours are fixed by the order of splits."""
    total = {name: sum(shape["counts"]) for name, shape in shapes.items()}
    series = {
        name: (f"c{index % 6}", [count / total[name] for count in shape["counts"]])
        for index, (name, shape) in enumerate(shapes.items())
        if total[name]
    }
    if not series:
        return '<p class="soft">None.</p>'
    bins: Sequence[str] = next(iter(shapes.values()))["bins"]
    first, last = _filled_range([shares for _, shares in series.values()])
    bins = bins[first:last]
    visible = {name: (style, shares[first:last]) for name, (style, shares) in series.items()}
    top = max(max(shares) for _, shares in visible.values())
    slot = (width - LEFT) / len(bins)

    def x(column: int) -> float:
        return round(LEFT + slot * (column + 0.5), 1)

    def y(share: float) -> float:
        return float(round(BASE - share / top * (BASE - 18), 1))

    lines = "".join(
        _line(style, [(x(column), y(share)) for column, share in enumerate(shares)], filled=not index)
        for index, (style, shares) in enumerate(visible.values())
    )
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT - 8}" role="img" aria-label="{escape(label)}">'
        f'<line x1="0" x2="{width}" y1="{BASE}" y2="{BASE}"/><text x="0" y="9">{percent(top)}</text>{lines}'
        f"{_ticks(bins, slot)}{_tooltips(bins, visible, slot)}</svg>"
    )


def _filled_range(series: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Returns the range of bins that any series fills; at least two bins."""
    filled = [column for column in range(len(series[0])) if any(shares[column] for shares in series)]
    first, last = filled[0], filled[-1] + 1
    return (first, last) if last - first > 1 else (max(first - 1, 0), max(first - 1, 0) + 2)


def _line(style: str, points: Sequence[tuple[float, float]], *, filled: bool) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    corners = f"{points[0][0]:g},{BASE} {path} {points[-1][0]:g},{BASE}"
    area = f'<polygon class="area" points="{corners}"/>' if filled else ""
    return f'<g class="{style}">{area}<polyline class="line" points="{path}"/></g>'


def _ticks(bins: Sequence[str], slot: float) -> str:
    """Tick labels: the upper ends of the bins, as many as fit."""
    names = [_tick(name) for name in bins]
    every = 1
    while max(map(len, names[::every])) * DIGIT + 3 > slot * every and every < len(names):
        every += 1
    return "".join(
        f'<text x="{LEFT + slot * (column + 0.5):.1f}" y="{BASE + 13}" text-anchor="middle">{escape(name)}</text>'
        for column, name in enumerate(names)
        if column % every == 0
    )


def _tick(name: str) -> str:
    end = name.rpartition("–")[2].removeprefix("≤ ").replace(",000,000", "M").replace(",000", "k")  # noqa: RUF001
    return end.removeprefix("> ") + "+" if end.startswith("> ") else end


def _tooltips(bins: Sequence[str], visible: Mapping[str, tuple[str, Sequence[float]]], slot: float) -> str:
    """Tooltips of the bins."""
    return "".join(
        f'<rect class="hit" x="{LEFT + slot * column:.1f}" y="0" width="{slot:.1f}" height="{BASE}"><title>'
        f"{escape(name)}: {escape(_bin_text(visible, column))}</title></rect>"
        for column, name in enumerate(bins)
    )


def _bin_text(visible: Mapping[str, tuple[str, Sequence[float]]], column: int) -> str:
    return ", ".join(f"{name} {percent(shares[column])}" for name, (_, shares) in visible.items())


def steps(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns one bar per step: conversations kept and rejected, with the reasons."""
    full = max((row.get("in", 0) for row in rows), default=0) or 1
    return f'<div class="funnel">{"".join(_step(row, full) for row in rows)}</div>'


def _step(row: Mapping[str, Any], full: int) -> str:
    kept_count, lost = row.get("kept", 0), row.get("in", 0) - row.get("kept", 0)
    reasons = ", ".join(
        f"{number(count)} {escape(reason)}" for reason, count in row.get("rejected", {}).items()
    )
    lost_bar = f'<i class="lost" style="width:{100 * lost / full:.2f}%"></i>' if lost else ""
    lost_text = f' <span class="different">−{number(lost)}</span>' if lost else ""  # noqa: RUF001
    return (
        f'<div class="step"><span>{escape(str(row.get("step", "")))}</span>'
        f'<span class="rail"><i class="kept" style="width:{100 * kept_count / full:.2f}%"></i>{lost_bar}</span>'
        f"<b>{number(kept_count)}{lost_text}</b>{f'<small class=why>{reasons}</small>' if reasons else ''}</div>"
    )
