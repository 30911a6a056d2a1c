"""Terminal table of a fidelity report."""

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
    """Returns a row for each metric that any simulator has; None for a simulator without it."""
    keys = dict.fromkeys(metric.key for s in report.simulators for metric in s.figures)
    metrics_by_simulator = [{metric.key: metric for metric in s.figures} for s in report.simulators]
    return {key: [metrics.get(key) for metrics in metrics_by_simulator] for key in keys}


def _cell(metric: Figure | None) -> str:
    if metric is None:
        return "[dim]not measured[/]"
    value = metric.value
    text = f"{value.value:.2f} \\[{value.low:.2f}, {value.high:.2f}]{MARK[metric.verdict]}"
    return f"[{STYLE[metric.verdict]}]{text}[/]"


def report_table(report: Report) -> Table:
    table = Table(
        title=f"{report.n} conversations per side",
        caption="≠ different from human at this n; ≈ equivalent within δ; ? too few to say; unmarked: inconclusive",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("metric")
    table.add_column("human baseline", justify="right")
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
    for row_metrics in _by_key(report).values():
        spec, floor = next((f, f.floor) for f in row_metrics if f)
        if spec.headline:
            band = f"{floor.median:.2f} \\[{floor.low:.2f}, {floor.high:.2f}]"
            table.add_row(spec.label, band, *map(_cell, row_metrics))
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
