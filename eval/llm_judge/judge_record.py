"""Record and tables of `judge.json`; neither holds chat text."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from eval.llm_judge.agreement import LabelAgreement
from eval.llm_judge.scores import ActRow, PairRate, ScoreRow, Transition
from usersim.stats.estimates import Estimate
from usersim.types import Record


class JudgeReport(Record):
    judge: str
    """Model name as sent to the endpoint."""
    prompts: dict[str, str]
    """Hash of each rubric's text."""
    seed: int
    settings: dict[str, Any]
    files: dict[str, str]
    """SHA-256 by name of the side."""
    pairs: tuple[PairRate, ...] = ()
    naturalness: tuple[ScoreRow, ...] = ()
    acts: tuple[ActRow, ...] = ()
    transitions: tuple[Transition, ...] = ()
    agreement: tuple[LabelAgreement, ...] = ()
    """Agreement with people, between people, and of the rules with the judge."""
    unanswered: dict[str, int]
    usage: dict[str, Any]
    notes: tuple[str, ...]


def tables(report: JudgeReport) -> list[Table]:
    return [
        table for table in (_pairs(report), _naturalness(report), _acts(report), _agreement(report)) if table
    ]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if index else "left")
    return table


def _pairs(report: JudgeReport) -> Table | None:
    if not report.pairs:
        return None
    table = _table("Which is human?", "pair", "called human", "both orders agree", "first place", "pairs")
    for row in report.pairs:
        name = row.name if row.kind == "simulated" else f"{row.name} ({row.kind})"
        shares = (percent(row.called_human), percent(row.consistent), percent(row.first_place))
        table.add_row(escape(name), *shares, f"{row.pairs} ({row.same_goal} of one goal)")
    return table


def _naturalness(report: JudgeReport) -> Table | None:
    if not report.naturalness:
        return None
    table = _table("Naturalness, 1 to 5", "source", "mean", "chats")
    for row in report.naturalness:
        mean = row.mean
        table.add_row(
            escape(row.source), f"{mean.value:.2f} \\[{mean.low:.2f}, {mean.high:.2f}]", str(row.chats)
        )
    return table


def _acts(report: JudgeReport) -> Table | None:
    if not report.acts:
        return None
    sources = list(dict.fromkeys(row.source for row in report.acts))
    table = _table("Grounding acts of the user (corrected for the judge's errors)", "act", *sources)
    for act in dict.fromkeys(row.act for row in report.acts):
        rows = {row.source: row for row in report.acts if row.act == act}
        table.add_row(escape(act), *(_act_cell(rows[source]) for source in sources))
    return table


def _act_cell(row: ActRow) -> str:
    corrected = f" ({percent(row.corrected)})" if row.corrected else ""
    return percent(row.rate) + corrected


def _agreement(report: JudgeReport) -> Table | None:
    if not report.agreement:
        return None
    table = _table("Agreement", "task", "between", "same label", "κ", "items")
    for row in report.agreement:
        kappa = row.kappa
        kappa_text = f"{kappa.value:.2f} \\[{kappa.low:.2f}, {kappa.high:.2f}]" if kappa else "-"
        table.add_row(row.task, escape(row.between), f"{row.observed:.0%}", kappa_text, str(row.n))
    return table


def percent(value: Estimate) -> str:
    return f"{value.value:.0%} \\[{value.low:.0%}, {value.high:.0%}]"
