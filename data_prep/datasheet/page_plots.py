"""What the datasheet draws: bars of counts, distributions of several splits over each other, the steps of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from usersim.report.svg import percent

HEIGHT, LEFT, BASE = 150, 2, 124
WIDTH, WIDE = 300, 400
DIGIT = 5.8
"""Width of a character of a tick."""

KNOWN = ("provenance", "wording_shared_with_user", "dropped", "close_to_held_out")
"""Tables whose names this package chose."""

Shape = Mapping[str, Any]
"""`bins` and `counts`, as `data_prep.datasheet.histogram.summarise` makes them."""


def number(value: Any) -> str:
    """`1,234`, `0.25`; a missing one is a dash."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, float) and value != int(value):
        return f"{value:,.0f}" if value > 100 else f"{value:,.2f}" if abs(value) >= 0.01 else f"{value:.2g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else escape(str(value))


def facts(value: Mapping[str, Any], *, text: bool) -> str:
    """A table of what is in it, tables inside opened. Not `text`: only what cannot be anybody's words."""
    rows = "".join(
        f"<tr><td>{escape(name.replace('_', ' '))}</td><td>{number(found)}</td></tr>"
        for name, found in _flat(value, text)
    )
    return f'<div class="scroll facts"><table>{rows}</table></div>' if rows else ""


def _flat(value: Mapping[str, Any], text: bool, above: str = "") -> Iterator[tuple[str, Any]]:
    for name, found in value.items():
        if isinstance(found, Mapping):
            # The names in a table that is not known may be words that people wrote.
            if text or name in KNOWN:
                yield from _flat(found, text, f"{above}{name}: ")
        elif isinstance(found, list | tuple):
            if text and found:
                yield above + name, ", ".join(map(str, found))
        elif text or isinstance(found, int | float):
            yield above + name, found


def bars(counts: Mapping[str, int], *, style: str = "human", of: int | None = None) -> str:
    """One row a name; as long as its share of `of`, or beside the largest."""
    full = of or max(counts.values(), default=0) or 1
    rows = "".join(
        f'<div class="share"><span title="{escape(name)}">{escape(name)}</span>'
        f'<span class="rail"><i class="{style}" style="width:{min(100 * count / full, 100):.1f}%"></i></span>'
        f"<b>{number(count)}</b></div>"
        for name, count in counts.items()
    )
    return f'<div class="bars">{rows}</div>'


def key(names: Sequence[str]) -> str:
    """The colours of the splits."""
    marks = (f'<span class="c{index % 6}"><i></i>{escape(name)}</span>' for index, name in enumerate(names))
    return f'<div class="key">{"".join(marks)}</div>'


def overlaid(label: str, shapes: Mapping[str, Shape], *, width: int = WIDTH) -> str:
    """A line for each split, of the share of its own total in each bin; each keeps its colour when others are empty."""
    total = {name: sum(shape["counts"]) for name, shape in shapes.items()}
    series = {
        name: (f"c{index % 6}", [count / total[name] for count in shape["counts"]])
        for index, (name, shape) in enumerate(shapes.items())
        if total[name]
    }
    if not series:
        return '<p class="soft">None.</p>'
    bins: Sequence[str] = next(iter(shapes.values()))["bins"]
    first, last = _used([shares for _, shares in series.values()])
    bins = bins[first:last]
    drawn = {name: (style, shares[first:last]) for name, (style, shares) in series.items()}
    top = max(max(shares) for _, shares in drawn.values())
    slot = (width - LEFT) / len(bins)

    def x(column: int) -> float:
        return round(LEFT + slot * (column + 0.5), 1)

    def y(share: float) -> float:
        return float(round(BASE - share / top * (BASE - 18), 1))

    lines = "".join(
        _line(style, [(x(column), y(share)) for column, share in enumerate(shares)], filled=not index)
        for index, (style, shares) in enumerate(drawn.values())
    )
    return (
        f'<svg viewBox="0 0 {width} {HEIGHT - 8}" role="img" aria-label="{escape(label)}">'
        f'<line x1="0" x2="{width}" y1="{BASE}" y2="{BASE}"/><text x="0" y="9">{percent(top)}</text>{lines}'
        f"{_ticks(bins, slot)}{_hits(bins, drawn, slot)}</svg>"
    )


def _used(series: Sequence[Sequence[float]]) -> tuple[int, int]:
    """The range outside of which all series are empty; two bins at least."""
    filled = [column for column in range(len(series[0])) if any(shares[column] for shares in series)]
    first, last = filled[0], filled[-1] + 1
    return (first, last) if last - first > 1 else (max(first - 1, 0), max(first - 1, 0) + 2)


def _line(style: str, points: Sequence[tuple[float, float]], *, filled: bool) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    corners = f"{points[0][0]:g},{BASE} {path} {points[-1][0]:g},{BASE}"
    area = f'<polygon class="area" points="{corners}"/>' if filled else ""
    return f'<g class="{style}">{area}<polyline class="line" points="{path}"/></g>'


def _ticks(bins: Sequence[str], slot: float) -> str:
    """The upper ends of the bins; as many as fit."""
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


def _hits(bins: Sequence[str], drawn: Mapping[str, tuple[str, Sequence[float]]], slot: float) -> str:
    """What the pointer shows over a bin."""
    return "".join(
        f'<rect class="hit" x="{LEFT + slot * column:.1f}" y="0" width="{slot:.1f}" height="{BASE}"><title>'
        f"{escape(name)}: {escape(_spoken(drawn, column))}</title></rect>"
        for column, name in enumerate(bins)
    )


def _spoken(drawn: Mapping[str, tuple[str, Sequence[float]]], column: int) -> str:
    return ", ".join(f"{name} {percent(shares[column])}" for name, (_, shares) in drawn.items())


def steps(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each step kept of what was read, and under it why the rest was not kept."""
    full = max((row.get("in", 0) for row in rows), default=0) or 1
    return f'<div class="funnel">{"".join(_step(row, full) for row in rows)}</div>'


def _step(row: Mapping[str, Any], full: int) -> str:
    kept, lost = row.get("kept", 0), row.get("in", 0) - row.get("kept", 0)
    why = ", ".join(f"{number(count)} {escape(reason)}" for reason, count in row.get("rejected", {}).items())
    loss = f'<i class="lost" style="width:{100 * lost / full:.2f}%"></i>' if lost else ""
    out = f' <span class="different">−{number(lost)}</span>' if lost else ""  # noqa: RUF001
    return (
        f'<div class="step"><span>{escape(str(row.get("step", "")))}</span>'
        f'<span class="rail"><i class="kept" style="width:{100 * kept / full:.2f}%"></i>{loss}</span>'
        f"<b>{number(kept)}{out}</b>{f'<small class=why>{why}</small>' if why else ''}</div>"
    )
