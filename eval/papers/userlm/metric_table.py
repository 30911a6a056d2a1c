"""Markdown report of the six metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eval.papers.user_sim_index.index_table import head, row, spread
from eval.papers.userlm.metric_rows import ByTurn, Row, UserLMReport
from usersim.stats.estimates import Estimate

AIM = {"as people": "= people", "higher": "↑", "lower": "↓"}


def markdown(report: UserLMReport) -> str:
    """Returns every row; the curves by turn; checks of the rules; missing and left-out parts."""
    parts = [
        "# Six metrics of a user simulator (after UserLM, arXiv 2510.06552)",
        "\n".join(_rows(report.rows)),
        "\n".join(_curves(report.curves)),
    ]
    if report.checks:
        check_lines = [f"- {name}: {spread(value, 2)} (n {value.n})" for name, value in report.checks.items()]
        parts.append("\n".join(["Rules on planted lines, share right:", *check_lines]))
    if report.missing:
        parts.append("\n".join(["Not measured:", *(f"- {k}: {why}" for k, why in report.missing.items())]))
    if report.excluded:
        exclusion_lines = [
            f"- {name}: {', '.join(f'{reason} {count}' for reason, count in reasons.items())}"
            for name, reasons in report.excluded.items()
        ]
        parts.append("\n".join(["Left out:", *exclusion_lines]))
    parts.append("\n".join(f"- {note}" for note in report.notes))
    if report.command:
        parts.append(f"`{report.command}`, seed {report.seed}, {report.seconds:.0f} s")
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(rows: Sequence[Row]) -> Iterator[str]:
    yield from head(
        "metric", "speaker", "variant", "aim", "value", "people", "value - people", "n", "judge", "note"
    )
    for metric_row in rows:
        yield row(
            metric_row.metric,
            metric_row.speaker,
            metric_row.label,
            AIM[metric_row.better],
            spread(metric_row.value, 3),
            _or_dash(metric_row.human),
            _or_dash(metric_row.gap),
            str(metric_row.value.n),
            metric_row.judge or "none",
            metric_row.note,
        )


def _curves(curves: Sequence[ByTurn]) -> Iterator[str]:
    if not curves:
        return
    yield "## Intent decomposition by user turn\n"
    yield from head("speaker", "metric", *(f"turn {turn}" for turn in curves[0].turns))
    for curve in curves:
        yield row(curve.speaker, "overlap with the goal", *map(_or_dash, curve.overlap))
        yield row(curve.speaker, "relevance", *map(_or_dash, curve.relevance))


def _or_dash(value: Estimate | None) -> str:
    return "-" if value is None else spread(value, 3)
