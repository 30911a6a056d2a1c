"""Renderers of the self-test: sentences, Markdown, HTML page and terminal table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich.table import Table
from rich.text import Text

from eval.fidelity.selftest.detection_record import Control, DetectionCell, SelfTest
from usersim.report import html as page
from usersim.storage.records import atomic_writer, write_json

SEES, BLIND, NOTHING = "caught", "–", "not measured"  # noqa: RUF001


def blind_spots(families: Sequence[str], controls: Sequence[Control]) -> list[str]:
    """Returns what a reader must not conclude from these metrics, control by control and family by family."""
    sentences = []
    planted = [c for c in controls if c.expected == "different"]
    for control in controls:
        if control.expected == "like human" and control.headline.is_different:
            sentences.append(
                f"{control.label}: called different, though these are humans. By chance this happens in one run of "
                "twenty; otherwise the file mixes kinds of people."
            )
    for control in planted:
        if not control.caught_by:
            sentences.append(f"No metric sees {control.label}. A simulator with this fault would pass.")
        elif len(control.caught_by) == 1:
            sentences.append(f"Only {control.caught_by[0]} sees {control.label}.")
    for family in families:
        missed_labels = [c.label for c in planted if family in c.cells and not c.cells[family].detects]
        is_measured = any(c.cells[family].figures for c in planted if family in c.cells)
        if not is_measured:
            sentences.append(f"{family} could not be measured on these conversations.")
        elif planted and len(missed_labels) == len(planted):
            sentences.append(f"{family} sees none of the planted faults at this n.")
        elif missed_labels:
            sentences.append(f"{family} does not see {', '.join(missed_labels)}.")
    return sentences


def cell_text(cell: DetectionCell | None) -> str:
    if cell is None or cell.worst is None:
        return NOTHING
    return (
        f"{SEES} {len(cell.caught)}/{cell.figures}, {cell.worst:.1f}"
        if cell.detects
        else f"{BLIND} {cell.worst:.1f}"
    )


def markdown(report: SelfTest) -> str:
    heads = ["metric", *(c.label for c in report.controls)]
    rows = [[m, *(cell_text(c.cells.get(m)) for c in report.controls)] for m in report.metrics]
    rows.append(["**overall**", *(_overall(c) for c in report.controls)])
    lines = [
        f"# {report.title}",
        "",
        f"{report.n} conversations per side; human baseline from {report.pool} human conversations. {LEGEND}",
        "",
        _line(heads),
        _line(["---"] * len(heads)),
        *map(_line, rows),
        "",
        "## Controls",
        "",
        *(f"- {c.label}: {c.planted}" for c in report.controls),
        *(f"- {name}: left out, {reason}" for name, reason in report.left_out.items()),
        "",
        "## Blind spots",
        "",
        *(f"- {spot}" for spot in report.blind_spots),
        "",
        "## Notes",
        "",
        *(f"- {note}" for note in report.notes),
    ]
    if report.command:
        lines += ["", f"    {report.command}"]
    return "\n".join(lines) + "\n"


LEGEND = (
    "A cell: how many of the family's headline metrics are called different after Holm's adjustment, and the excess "
    "of its worst one in widths of the human baseline (1 is the edge of human variation)."
)


def html(report: SelfTest) -> str:
    heads = ["metric", *(escape(c.label) for c in report.controls)]
    rows = [[escape(m), *(_html_cell(c.cells.get(m)) for c in report.controls)] for m in report.metrics]
    rows.append(["<b>overall</b>", *(escape(_overall(c)) for c in report.controls)])
    controls = "".join(f"<li><b>{escape(c.label)}</b>: {escape(c.planted)}</li>" for c in report.controls)
    left_out = "".join(
        f"<li><b>{escape(name)}</b>: left out, {escape(reason)}</li>"
        for name, reason in report.left_out.items()
    )
    floors = page.table(
        ("metric", "baseline, median", "baseline, far end"),
        [(escape(key), f"{middle:.3f}", f"{end:.3f}") for key, (middle, end) in report.floors.items()],
    )
    return page.render_page(
        report.title,
        [
            f"<h1>{escape(report.title)}</h1>"
            f'<p class="lead">{report.n} conversations per side; the human baseline comes from {report.pool} human '
            f"conversations.</p><p>{escape(LEGEND)}</p>{page.table(heads, rows)}",
            f"<h2>Controls</h2><ul>{controls}{left_out}</ul>",
            f"<h2>Blind spots</h2>{_list(report.blind_spots)}",
            f"<h2>Notes</h2>{_list(report.notes)}",
            page.details("Human baselines", floors),
            page.details("Settings", f"<pre>{escape(report.config.model_dump_json(indent=1))}</pre>"),
        ],
        style="td small { display: block; max-width: 15em; white-space: normal; }",
    )


def terminal(report: SelfTest) -> Table:
    table = Table(title=f"{report.n} conversations per side", caption=LEGEND, title_justify="left")
    table.add_column("metric")
    for control in report.controls:
        table.add_column(Text(control.label))
    for family in report.metrics:
        cells = [control.cells.get(family) for control in report.controls]
        table.add_row(
            family,
            *(Text(cell_text(c), style="red" if c and c.detects else "dim") for c in cells),
        )
    table.add_section()
    table.add_row("overall", *(_overall(control) for control in report.controls))
    return table


def write_selftest(report: SelfTest, out: str | Path) -> None:
    """Writes report.json, report.md and report.html into `out`, each atomically."""
    folder = Path(out)
    write_json(folder / "report.json", report.model_dump(mode="json"))
    for name, text in (("report.md", markdown(report)), ("report.html", html(report))):
        with atomic_writer(folder / name) as stream:
            stream.write(text)


def _overall(control: Control) -> str:
    return f"{control.headline.overall}, p {control.headline.p:.3f}"


def _html_cell(cell: DetectionCell | None) -> str:
    text = escape(cell_text(cell))
    if cell is None or not cell.detects:
        return f'<span class="soft">{text}</span>'
    return f'<span class="different">{text}</span><small>{escape(", ".join(cell.caught))}</small>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
