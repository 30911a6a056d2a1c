"""Metrics as tables for a paper (LaTeX, booktabs) and for a README (Markdown)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.fidelity.confounds import FIRST_PAGE, confounds
from eval.fidelity.pages.plots import number
from eval.fidelity.report_record import Report, floor_widths, in_words
from usersim.report.svg import percent
from usersim.stats.estimates import Estimate, Figure

MARKS = {
    "different": "≠",
    "equivalent": "≈",
    "inconclusive": "",
    "guarded": "(guarded)",
    "too few": "?",
    "not applicable": "",
}
CAPTION = (
    "95 % intervals. ≠: different from human (Holm over the metrics); ≈: equivalent within the margin; ?: too few to "
    "say; unmarked: inconclusive, which is not the same as equal. Human baseline: median and 95 % range between two "
    "halves of the human conversations at the same n; δ: margin of equivalence, fixed beforehand; ↓: lower is worse."
)
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "≠": r"$\neq$",
    "≈": r"$\approx$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "↓": r"$\downarrow$",
    "–": "--",  # noqa: RUF001
    "“": "``",
    "”": "''",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}
MARKDOWN = re.compile(r"([\\|`*_\[\]<>])")


@dataclass(frozen=True)
class Table:
    """Cells are plain text; a renderer escapes them."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(report: Report) -> str:
    """Returns a heading, the headline and its confounds as sentences, and the tables; gates first."""
    parts = [
        f"# {markdown_text(report.title)}",
        markdown_text(FIRST_PAGE),
        markdown_text(_about(report)),
        *_headlines(report),
    ]
    parts += [_markdown_table(table) for table in tables(report) if table.rows]
    if report.command:
        parts.append(f"Command: {_code(report.command)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(report: Report) -> str:
    r"""Returns one `table*` environment per table, over both columns; needs only `\usepackage{array,booktabs}`."""
    head = f"% {_one_line(_about(report))}\n% {_one_line(report.command)}\n" if report.command else ""
    return head + "\n".join(latex_table(table) for table in tables(report) if table.rows)


def tables(report: Report) -> list[Table]:
    names = [simulator.name for simulator in report.simulators]
    missing = [[s.name, metric, why] for s in report.simulators for metric, why in s.missing.items()]
    return [
        Table(
            "Validity gates: share of conversations with at least one, 95 % intervals (Wilson). Guarded: fewer than "
            "people, and the simulator's guards forbid it.",
            ["gate", "human", *names],
            _gates(report),
        ),
        Table(
            f"Metrics between {report.n} simulated and {report.n} human conversations. {CAPTION}",
            ["metric", "unit", "human baseline", "δ", *names],
            _metrics(report),
        ),
        Table("Not measured, and never taken as zero.", ["simulator", "metric", "why"], missing),
    ]


def _about(report: Report) -> str:
    config = report.config
    return (
        f"{report.n} conversations per side; {config.bootstrap} resamples, {config.floor_repeats} human splits, "
        f"seed {config.seed}."
    )


def _headlines(report: Report) -> list[str]:
    """Returns a heading and a list for every simulator."""
    parts = []
    for simulator in report.simulators:
        lines = [*in_words(simulator.headline), *confounds(report, simulator)]
        parts += [
            f"## {markdown_text(simulator.name)}",
            "\n".join(f"- {markdown_text(line)}" for line in lines),
        ]
    return parts


def _metrics(report: Report) -> list[list[str]]:
    """Returns the rows of the headline metrics, furthest first; second views are in report.json only."""
    values_by_key: dict[str, dict[str, Figure]] = {}
    for simulator in report.simulators:
        for metric in simulator.figures:
            if metric.headline:
                values_by_key.setdefault(metric.key, {})[simulator.name] = metric
    rows = []
    for by_name in sorted(values_by_key.values(), key=lambda row: -max(map(floor_widths, row.values()))):
        first = next(iter(by_name.values()))
        cells = [_metric_cell(by_name.get(simulator.name)) for simulator in report.simulators]
        down = " ↓" if first.worse == "lower" else ""
        rows.append([first.label + down, first.unit, _floor(first), f"{first.margin:g}", *cells])
    return rows


def _floor(metric: Figure) -> str:
    floor, unit = metric.floor, metric.unit
    return f"{number(floor.median, unit)} [{number(floor.low, unit)}, {number(floor.high, unit)}]"


def _metric_cell(metric: Figure | None) -> str:
    if metric is None:
        return "–"  # noqa: RUF001
    return f"{interval(metric.value, metric.unit)} {MARKS[metric.verdict]}".strip()


def interval(value: Estimate, unit: str = "") -> str:
    return f"{number(value.value, unit)} [{number(value.low, unit)}, {number(value.high, unit)}]"


def _gates(report: Report) -> list[list[str]]:
    rows = []
    for results in zip(*(simulator.gates for simulator in report.simulators), strict=True):
        cells = [f"{_share(gate.simulated)} {MARKS[gate.verdict]}".strip() for gate in results]
        rows.append([results[0].label, _share(results[0].human), *cells])
    return rows


def _share(value: Estimate | None) -> str:
    if value is None:
        return "–"  # noqa: RUF001
    return f"{percent(value.value)} [{percent(value.low)}, {percent(value.high)}]"


def _markdown_table(table: Table) -> str:
    return markdown_table(table.heads, table.rows) + f"\n\n{markdown_text(table.caption)}"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    escaped = [[cell if cell == "---" else markdown_text(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in escaped)


def markdown_text(text: str) -> str:
    """Escapes Markdown markup; line breaks become spaces."""
    return MARKDOWN.sub(r"\\\1", _one_line(text))


def _code(text: str) -> str:
    """Returns a code span with a fence longer than any run of backticks in the text."""
    fence = "`" * (max(map(len, re.findall(r"`+", text)), default=0) + 1)
    return f"{fence} {_one_line(text)} {fence}"


def latex_table(table: Table) -> str:
    cell: Callable[[str], str] = latex_text
    body = " \\\\\n".join(" & ".join(map(cell, row)) for row in table.rows)
    return (
        "\\begin{table*}\n\\centering\n\\footnotesize\n"
        f"\\caption{{{cell(table.caption)}}}\n"
        f"\\begin{{tabular}}{{{_columns(table)}}}\n\\toprule\n"
        f"{' & '.join(map(cell, table.heads))} \\\\\n\\midrule\n{body} \\\\\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table*}\n"
    )


def _columns(table: Table) -> str:
    """Returns column widths that fill the page, each by the square root of its longest cell, so that long
    cells wrap."""
    longest = [math.sqrt(max(map(len, column))) for column in zip(table.heads, *table.rows, strict=True)]
    shares = [width / sum(longest) for width in longest]
    return "".join(
        rf">{{\raggedright\arraybackslash}}p{{\dimexpr{share:.3f}\textwidth-2\tabcolsep\relax}}"
        for share in shares
    )


def latex_text(text: str) -> str:
    """Replaces each character that is special in LaTeX by its command; a bracket that opens a row is protected."""
    escaped = "".join(LATEX.get(character, character) for character in _one_line(text))
    return "{}" + escaped if escaped.startswith("[") else escaped


def _one_line(text: str) -> str:
    return " ".join(text.split())
