"""Report section: the headline for each simulator as sentences, with its confounds."""

from __future__ import annotations

from html import escape

from eval.fidelity.confounds import FIRST_PAGE, confounds
from eval.fidelity.pages.plots import style_of
from eval.fidelity.report_record import Report, SimulatorReport, in_words


def head(report: Report) -> str:
    cards = "".join(_card(index, simulator, report) for index, simulator in enumerate(report.simulators))
    return (
        f"<h1>{escape(report.title)}</h1>"
        f'<p class="lead">{report.n} conversations per side, beside the human baseline: how far two halves of the '
        f"{report.human.kept} human conversations are from each other at the same n.</p>"
        f'<p class="soft">{escape(FIRST_PAGE)}</p>{_warning(report)}<div class="cards">{cards}</div>'
    )


def _warning(report: Report) -> str:
    if all(metric.verdict != "too few" for s in report.simulators for metric in s.figures):
        return ""
    return f'<p class="different"><b>Too few:</b> {report.n} conversations per side carry no verdict.</p>'


def _card(index: int, simulator: SimulatorReport, report: Report) -> str:
    lines = "".join(
        f"<p><b>{name}:</b>{rest}</p>" for name, rest in map(_sentence, in_words(simulator.headline))
    )
    beside = "".join(f"<li>{escape(line)}</li>" for line in confounds(report, simulator))
    return (
        f'<div class="card sim {style_of(index)}"><h2 class="name">{escape(simulator.name)}</h2>{lines}'
        f'<ul class="soft">{beside}</ul>{_missing(simulator)}</div>'
    )


def _sentence(line: str) -> tuple[str, str]:
    name, _, rest = line.partition(":")
    return escape(name), escape(rest)


def _missing(simulator: SimulatorReport) -> str:
    if not simulator.missing:
        return ""
    return '<p class="soft"><a href="#missing">Some metrics could not be measured.</a></p>'
