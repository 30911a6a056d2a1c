"""Report sections: distributions of attributes, and curves over a conversation."""

from __future__ import annotations

from html import escape

from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.pages.drawing import NamedSeries, bars, course
from eval.fidelity.pages.plots import key, number, shapes, shares, style_of
from eval.fidelity.report_record import FeatureShape, Report
from usersim.report import html as page
from usersim.report.svg import percent
from usersim.stats.estimates import Estimate

CurveGroup = list[tuple[int, str, Curve]]
"""One curve of several simulators: index, name and record of each."""


def attributes(report: Report) -> str:
    cards = "".join(_attribute(shape) for shape in report.features)
    names = [simulator.name for simulator in report.simulators]
    return (
        '<h2 id="writing">How they write</h2><p>Share of user turns, or of conversations; each conversation weighs '
        f"the same. Bins are named by their range, or by their lower edge.</p>{key(names)}"
        f'<div class="grid">{cards}</div>'
    )


def _attribute(shape: FeatureShape) -> str:
    sides = [("human", shape.human), *shape.simulated.items()]
    if shape.bins == ("no", "yes"):
        return f'<div class="card"><h3>{escape(shape.label)}</h3>{shares(shape)}</div>'
    rows = [
        [escape(name), _average(value), *map(percent, bars_of)]
        for (name, bars_of), value in zip(
            sides, (shape.human_average, *shape.simulated_average.values()), strict=True
        )
    ]
    average = "mean" if shape.is_share else "median"
    table = page.table(["", average, *map(escape, shape.bins)], rows, label=shape.label)
    return f'<div class="card"><h3>{escape(shape.label)}</h3>{shapes(shape)}{page.details("as a table", table)}</div>'


def _average(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"  # noqa: RUF001


def curves(report: Report) -> str:
    groups = _curves_by_key(report)
    if not groups:
        return ""
    cards = "".join(_curve(part) for group in groups.values() for part in _plots_of(group))
    names = [simulator.name for simulator in report.simulators]
    return (
        '<h2 id="curves">Over a conversation</h2><p>For display; the verdicts are with the metrics above. The grey '
        f"band and the lines at points and bars are 95 % intervals.</p>{key(names)}"
        f'<div class="grid wide">{cards}</div>'
    )


def _curves_by_key(report: Report) -> dict[str, CurveGroup]:
    groups: dict[str, CurveGroup] = {}
    for index, simulator in enumerate(report.simulators):
        for curve in simulator.curves:
            groups.setdefault(curve.key, []).append((index, simulator.name, curve))
    return groups


def _plots_of(group: CurveGroup) -> list[CurveGroup]:
    """Puts all simulators in one plot where their human curves are the same; otherwise one plot each."""
    first = group[0][2]
    same = all((curve.x, curve.human) == (first.x, first.human) for _, _, curve in group)
    return [group] if same else [[member] for member in group]


def _curve(group: CurveGroup) -> str:
    curve = group[0][2]
    series: list[NamedSeries] = [("human", "human", curve.human)]
    series += [(name, style_of(index), simulator_curve.simulated) for index, name, simulator_curve in group]
    title = escape(curve.label)
    plot = (
        bars(curve.label, curve.x, series)
        if curve.categories
        else course(curve.label, curve.x, (curve.x_label, curve.y_label), series)
    )
    axis = f"<small>{escape(curve.y_label)}</small>" if curve.categories else ""
    return f'<div class="card"><h3>{title} {axis}</h3>{plot}{page.details("as a table", _table(curve, series))}</div>'


def _table(curve: Curve, series: list[NamedSeries]) -> str:
    heads = [escape(curve.x_label), *(escape(name) for name, _, _ in series)]
    rows = [
        [escape(x), *(_cell(values[index]) for _, _, values in series)] for index, x in enumerate(curve.x)
    ]
    return page.table(heads, rows, label=curve.label)


def _cell(value: Estimate | None) -> str:
    if value is None:
        return "–"  # noqa: RUF001
    return f"{number(value.value)}<small>[{number(value.low)}, {number(value.high)}], n {value.n}</small>"
