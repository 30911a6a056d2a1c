"""A fidelity report as a table in the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from eval.fidelity.report_record import Report
from usersim.stats.estimates import Figure

MARK = {
    "different": " ≠",
    "equivalent": " ≈",
    "inconclusive": "",
    "guarded": " (guarded)",
    "too few": " ?",
    "not applicable": "",
}
STYLE = {
    "different": "red",
    "equivalent": "green",
    "inconclusive": "dim",
    "guarded": "dim",
    "too few": "yellow",
    "not applicable": "dim",
}


def _by_key(report: Report) -> dict[str, list[Figure | None]]:
    """A row per figure that any simulator has; None where one has not."""
    keys = dict.fromkeys(figure.key for s in report.simulators for figure in s.figures)
    own = [{figure.key: figure for figure in s.figures} for s in report.simulators]
    return {key: [figures.get(key) for figures in own] for key in keys}


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "[dim]not measured[/]"
    found = figure.value
    text = f"{found.value:.2f} \\[{found.low:.2f}, {found.high:.2f}]{MARK[figure.verdict]}"
    return f"[{STYLE[figure.verdict]}]{text}[/]"


def report_table(report: Report) -> Table:
    table = Table(
        title=f"{report.n} conversations per side",
        caption="≠ different from human at this n; ≈ equivalent within δ; ? too few to say; unmarked: inconclusive",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("figure")
    table.add_column("human floor", justify="right")
    for simulator in report.simulators:
        table.add_column(escape(simulator.name), justify="right")
    for row, gate in enumerate(report.simulators[0].gates):
        results = [simulator.gates[row] for simulator in report.simulators]
        table.add_row(
            gate.label,
            f"{gate.human.value:.1%}" if gate.human else "-",
            *(
                f"[{STYLE[g.verdict]}]{f'{g.simulated.value:.1%}' if g.simulated else '-'}{MARK[g.verdict]}[/]"
                for g in results
            ),
        )
    table.add_section()
    for found in _by_key(report).values():
        spec, floor = next((f, f.floor) for f in found if f)
        if spec.headline:
            band = f"{floor.median:.2f} \\[{floor.low:.2f}, {floor.high:.2f}]"
            table.add_row(spec.label, band, *map(_cell, found))
    table.add_section()
    table.add_row(
        "overall",
        "",
        *(
            f"[{'red' if s.headline.is_different else 'dim'}]{s.headline.overall}[/]"
            for s in report.simulators
        ),
    )
    return table
