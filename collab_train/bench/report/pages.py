"""Report of a benchmark: tables as Markdown, and tables with plots as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from collab_train.bench.measures.cells import BenchCell
from collab_train.bench.measures.conversation_measures import MEASURES
from collab_train.bench.measures.intervals import IntervalEstimate
from collab_train.bench.report import plots
from collab_train.bench.report.bench_record import (
    Table,
    asking_table,
    cell_fields,
    differences_table,
    refusing_table,
    values_table,
)
from collab_train.bench.single_replies.generalise import Asking
from collab_train.bench.single_replies.safety import Refusing
from usersim.report.html import render_page, table

TITLE = "Assistants side by side"
NOTE = (
    "Means over held-out contexts with 95 % intervals (bootstrap over contexts; Wilson for shares). Differences are "
    "paired: the same contexts, users and seeds; bold where the interval excludes 0 and n is at least 10. "
    "Conversations that failed are left out, never scored 0. Tokens are words and punctuation marks that the user "
    "reads and writes."
)
HEADINGS = {
    "table": "Tasks",
    "ablation": "The window of the reward",
    "clarify": "Ambiguous questions (Abg-CoQA)",
    "safety": "Harmful requests",
}
Section = tuple[str, list[Table], str]
"""Heading, tables, and HTML of the plots of a section."""


def markdown(report: dict[str, Any]) -> str:
    parts = [f"# {TITLE}", NOTE, f"`{report['command']}`"]
    for heading, tables, _ in sections(report):
        parts += [f"## {heading}", *(_markdown_table(rows_table) for rows_table in tables if rows_table[1])]
    return "\n\n".join(parts) + "\n"


def page(report: dict[str, Any]) -> str:
    parts = [
        f"<h1>{TITLE}</h1><p class='lead'>{escape(NOTE)}</p><p><code>{escape(report['command'])}</code></p>"
    ]
    for heading, tables, plots_html in sections(report):
        tables_html = "".join(_html_table(rows_table, heading) for rows_table in tables if rows_table[1])
        parts.append(f"<h2>{escape(heading)}</h2>{plots_html}{tables_html}")
    return render_page(TITLE, parts, style=plots.STYLE)


def sections(report: dict[str, Any]) -> Iterator[Section]:
    for part in ("table", "ablation"):
        for task, user, block in _blocks(report.get(part, [])):
            cells = [BenchCell.model_validate(cell_fields(row)) for row in block]
            plots_html = _over_window(block) if part == "ablation" else _differences(cells)
            yield (
                f"{HEADINGS[part]}: {task}, user: {user}",
                [values_table(cells), differences_table(cells)],
                plots_html,
            )
    if asking := [Asking.model_validate(row) for row in report.get("clarify", [])]:
        yield HEADINGS["clarify"], [asking_table(asking)], ""
    if refusing := [Refusing.model_validate(row) for row in report.get("safety", [])]:
        yield HEADINGS["safety"], [refusing_table(refusing)], ""


def _blocks(cells: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    for task, user in dict.fromkeys((cell["task"], cell["user"]) for cell in cells):
        yield task, user, [cell for cell in cells if (cell["task"], cell["user"]) == (task, user)]


def _differences(cells: Sequence[BenchCell]) -> str:
    rows = [
        (f"{cell.assistant} - {reference}", plots.colour(index), gaps["reward"])
        for index, cell in enumerate(cells)
        for reference, gaps in cell.differences.items()
        if "reward" in gaps
    ]
    return f"<h3>R, difference</h3>{plots.differences(rows)}" if rows else ""


def _over_window(cells: Sequence[dict[str, Any]]) -> str:
    """Plots of R and task score over the window w (CollabLLM, Figure 4).

    There is one line for each kind of reward in training and one for each untrained assistant.
    """
    cards, windows = [], sorted({cell["w"] for cell in cells if cell["w"] is not None})
    for name in ("reward", "score"):
        series: dict[str, list[tuple[int, IntervalEstimate]]] = {}
        for cell in cells:
            if name not in cell["measures"]:
                continue
            estimate = IntervalEstimate.model_validate(cell["measures"][name])
            if cell["w"] is not None:
                series.setdefault(cell["rewards"], []).append((cell["w"], estimate))
            else:
                series[cell["assistant"]] = [(w, estimate) for w in windows]
        if windows and series:
            label = f"{MEASURES[name].label} over w"
            cards.append(f'<div class="card"><h3>{label}</h3>{plots.over_window(label, series)}</div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _markdown_table(content: Table) -> str:
    heads, rows = content
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def _html_table(content: Table, label: str) -> str:
    heads, rows = content
    return table(
        [escape(head) for head in heads], [[_cell(cell) for cell in row] for row in rows], label=label
    )


def _cell(text: str) -> str:
    bold = text.startswith("**")
    inside = escape(text.strip("*"))
    return f"<b>{inside}</b>" if bold else inside
