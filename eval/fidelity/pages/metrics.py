"""Report section: every metric beside the human baseline, on one axis and in its own unit; and the validity gates."""

from __future__ import annotations

from html import escape

from eval.fidelity.pages.plots import (
    Series,
    common_ticks,
    common_track,
    estimate,
    key,
    number,
    p_value,
    style_of,
    track,
)
from eval.fidelity.report_record import Report, floor_widths
from usersim.report import html as page
from usersim.report.svg import percent
from usersim.stats.estimates import Estimate, Figure

CLASS_OF = {"different": "different", "equivalent": "equivalent", "too few": "few"}
GROUPS = {
    "M1": "How turns look, one attribute at a time",
    "M2": "Can a classifier tell?",
    "M3": "Do they reach all kinds of people?",
    "M4": "Are they as varied as people?",
    "M5": "How they behave over a conversation",
    "M6": "Does a model of people expect their turns?",
}


def metrics(report: Report) -> str:
    by_key = series_of(report)
    main = [series for series in by_key.values() if series[0][1].headline]
    second = "".join(_row(series) for series in by_key.values() if not series[0][1].headline)
    names = [simulator.name for simulator in report.simulators]
    return (
        '<h2 id="floor">Against the human baseline</h2>'
        "<p>A mark inside the band is no further from humans than humans are from each other. Bars are 95 % "
        f"intervals over conversations.</p>{key(names, floor=True)}"
        "<h3>All on one axis</h3><p>In baseline widths: 0 is the baseline's median, 1 its far end; the furthest first. "
        f"The axis has a square-root scale, so that distant values fit.</p>{_overview(main)}"
        "<h3>Each in its own unit</h3><p>Further right is further from human, unless the row says that lower is "
        "worse. The line in the band is the baseline's median, the dotted one the margin of “equivalent”; p is "
        f"adjusted for all metrics (Holm).</p>{_grouped(main)}"
        + (page.details("Second views of the same attributes", second) if second else "")
    )


def series_of(report: Report) -> dict[str, list[tuple[int, Figure]]]:
    """Returns, by metric key, the index of every simulator that has the metric, with its value."""
    series_by_key: dict[str, list[tuple[int, Figure]]] = {}
    for index, simulator in enumerate(report.simulators):
        for metric in simulator.figures:
            series_by_key.setdefault(metric.key, []).append((index, metric))
    return series_by_key


def _overview(main: list[list[tuple[int, Figure]]]) -> str:
    ordered = sorted(main, key=lambda series: -max(floor_widths(metric) for _, metric in series))
    rows = "".join(
        f'<div class="line"><span>{escape(series[0][1].label)}</span>{common_track(series)}</div>'
        for series in ordered
    )
    return f'<div class="overview">{rows}<div class="line"><span></span>{common_ticks()}</div></div>'


def _grouped(main: list[list[tuple[int, Figure]]]) -> str:
    groups: dict[str, list[str]] = {}
    for series in main:
        groups.setdefault(series[0][1].metric, []).append(_row(series))
    return "".join(
        f'<h4 class="group">{escape(GROUPS.get(metric, metric))} <small>{escape(metric)}</small></h4>{"".join(rows)}'
        for metric, rows in groups.items()
    )


def _row(series: Series) -> str:
    first = series[0][1]
    values = "".join(
        f'<div class="{style_of(index)}"><span>{estimate(f.value, f.unit)}</span>{_verdict(f.verdict, f.p_holm)}</div>'
        for index, f in series
    )
    low = " · lower is worse" if first.worse == "lower" else ""
    band = f"baseline {number(first.floor.median, first.unit)}, to "
    band += number(first.floor.high if first.worse == "higher" else first.floor.low, first.unit)
    return (
        f'<div class="row"><div class="name">{escape(first.label)}<small>{escape(first.unit)}{low}</small></div>'
        f'{track(series)}<div class="values">{values}<small>{band}</small></div></div>'
    )


def _verdict(verdict: str, p: float | None = None) -> str:
    p_text = "" if p is None else f" <span>p {escape(p_value(p))}</span>"
    return f'<small class="{CLASS_OF.get(verdict, "inconclusive")}">{verdict}{p_text}</small>'


def gates(report: Report) -> str:
    heads = ["gate", "human", *(escape(s.name) for s in report.simulators)]
    rows = [
        [
            escape(results[0].label),
            share(results[0].human),
            *(f"{share(gate.simulated)}{_verdict(gate.verdict)}" for gate in results),
        ]
        for results in zip(*(s.gates for s in report.simulators), strict=True)
    ]
    return (
        '<h2 id="gates">Validity gates</h2><p>Share of conversations with at least one, beside the human share. '
        "“guarded”: fewer than people, but its guards rejected such turns, so it is no finding.</p>"
        f"{page.table(heads, rows, label='validity gates')}"
    )


def share(value: Estimate | None) -> str:
    if value is None:
        return "–"  # noqa: RUF001
    return f"{percent(value.value)}<small>[{percent(value.low)}, {percent(value.high)}], n {value.n}</small>"
