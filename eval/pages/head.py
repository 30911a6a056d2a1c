"""The headline: a vector of figures for each simulator, the worst of them, and no index."""

from __future__ import annotations

from collections import Counter
from html import escape

from eval.estimates import Figure
from eval.plots import number, style_of
from eval.report import Report, SimulatorReport, floor_widths

MEANING = {
    "equivalent": "equivalent to human",
    "inside": "inside the floor",
    "outside": "outside, inconclusive",
    "different": "different",
    "few": "too few to say",
}


def head(report: Report) -> str:
    cards = "".join(_card(index, simulator) for index, simulator in enumerate(report.simulators))
    return (
        f"<h1>{escape(report.title)}</h1>"
        f'<p class="lead">{report.n} conversations per side, beside the floor: how far two halves of the '
        f"{report.human.kept} human conversations are from each other at the same n.</p>{_warning(report)}"
        f'<div class="cards">{cards}</div>{_legend(report)}'
    )


def standing(figure: Figure) -> str:
    """Where a figure stands, as one of `MEANING`."""
    if figure.verdict == "too few":
        return "few"
    if figure.verdict in ("different", "equivalent"):
        return figure.verdict
    return "inside" if figure.inside_floor else "outside"


def _warning(report: Report) -> str:
    if all(figure.verdict != "too few" for s in report.simulators for figure in s.figures):
        return ""
    return f'<p class="different"><b>Too few:</b> {report.n} conversations per side carry no verdict.</p>'


def _card(index: int, simulator: SimulatorReport) -> str:
    first = simulator.headline
    failing = [gate.label for gate in simulator.gates if gate.verdict == "different"]
    gates = f"Gates that differ: {escape('; '.join(failing))}." if failing else "No gate is known to differ."
    beyond = first.worst_floor_widths
    worst = f"{beyond:.1f} floor widths out" if beyond > 1 else "inside the floor"
    overall = f"{first.overall} (p {first.p:.3f})"
    style = "different" if first.different else "soft"
    return (
        f'<div class="card sim {style_of(index)}"><h2 class="name">{escape(simulator.name)}</h2>'
        f'<div class="big">{first.inside_floor} <small>of {first.figures} figures inside the floor</small></div>'
        f"{_strip(simulator)}"
        f'<p><b class="{style}">Overall: {overall}.</b> Worst: {escape(first.worst)} ({worst}). '
        f"{_counts(simulator)}</p>"
        f'<p class="soft">{gates}{_missing(simulator)}</p></div>'
    )


def _strip(simulator: SimulatorReport) -> str:
    """One box a figure, in the order of the rows below."""
    boxes = "".join(
        f'<i class="{standing(f)}" title="{escape(f.label)}: {number(floor_widths(f))} floor widths, '
        f'{MEANING[standing(f)]}"></i>'
        for f in simulator.figures
        if f.headline
    )
    return f'<div class="strip" aria-hidden="true">{boxes}</div>'


def _counts(simulator: SimulatorReport) -> str:
    found: Counter[str] = Counter(figure.verdict for figure in simulator.figures if figure.headline)
    names = ("different", "equivalent", "inconclusive", "too few")
    return (
        "Figures called "
        + ", ".join(f"{name}: {found[name]}" for name in names if found[name] or name == "different")
        + "."
    )


def _missing(simulator: SimulatorReport) -> str:
    if not simulator.missing:
        return ""
    return f' <a href="#missing">{len(simulator.missing)} could not be measured.</a>'


def _legend(report: Report) -> str:
    seen = {standing(figure) for s in report.simulators for figure in s.figures if figure.headline}
    boxes = "".join(f'<span><i class="{k}"></i>{text}</span>' for k, text in MEANING.items() if k in seen)
    return f'<div class="key strip-key">{boxes}<span>(one box a figure)</span></div>'
