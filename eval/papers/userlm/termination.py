"""Dialogue termination: at places of real conversations, does the simulated user leave where the person left?

A place is a point after an answer at which the person has spoken before; openings count in the paper too, and its
trivial baselines stand in the report. Places beyond the first `MOST` answers are not asked about.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.fidelity.metrics.endings.ending import EndReport, join, report_ends
from eval.likelihood.drawing import Ask, Batch
from eval.papers.userlm.metric_rows import Ends, Row
from usersim.stats.estimates import Estimate, Floats
from usersim.types import Conversation, UserProfile

MOST = 8


def end_asks(conversations: Sequence[Conversation]) -> list[Ask]:
    """Under the own goal where there is one. What the corpus cut is not asked about at its last place."""
    return [
        Ask(f"end {c.id} {place}", UserProfile(goal=c.profile.goal), c.turns[:place])
        for c in conversations
        for place in _places(c)
    ]


def _places(conversation: Conversation) -> list[int]:
    turns = conversation.turns
    spoken = next((i for i, turn in enumerate(turns) if turn.role == "user"), len(turns))
    found = [i + 1 for i, turn in enumerate(turns) if turn.role == "assistant" and i > spoken]
    last_is_known = conversation.ended_by == "user"
    return [i for i in found if i < len(turns) or last_is_known][:MOST]


def ends(speaker: str, conversations: Sequence[Conversation], batch: Batch, counts_BN: Floats) -> Ends | None:
    """None where the places hold no leaving, or nothing but leaving."""
    drawn: list[tuple[list[float], list[int]]] = []
    stated: list[tuple[list[float], list[int]]] = []
    for conversation in conversations:
        places = [p for p in _places(conversation) if f"end {conversation.id} {p}" in batch.turns]
        said = [batch.turns[f"end {conversation.id} {p}"] for p in places]
        left = [int(p == len(conversation.turns)) for p in places]
        drawn.append(([float(turn.ends) for turn in said], left))
        stated.append(([turn.end_probability for turn in said], left))
    report = report_ends(join(drawn), counts_BN)
    if report is None:
        return None
    probabilities = np.array([p for ps, _ in stated for p in ps])
    graded = bool(((probabilities > 0) & (probabilities < 1)).any())
    return Ends(
        speaker=speaker, drawn=report, probability=report_ends(join(stated), counts_BN) if graded else None
    )


def end_rows(found: Ends) -> list[Row]:
    rows = [_row(found.speaker, "f1_drawn", "F1 of leaving, as drawn", found.drawn)]
    if found.probability is not None:
        rows.append(_row(found.speaker, "f1_at_half", "F1 of leaving where P(end) ≥ 0.5", found.probability))
    return rows


def _row(speaker: str, key: str, label: str, report: EndReport) -> Row:
    f1 = report.at_half.f1
    note = (
        f"people leave at {report.base_rate:.0%} of {report.positions} places; always {report.always_f1:.2f}, "
        f"never 0.00, a coin at the base rate {report.coin_f1:.2f}; precision {report.at_half.precision.value:.2f}, "
        f"recall {report.at_half.recall.value:.2f}"
    )
    value = Estimate(value=f1.value, low=f1.low, high=f1.high, n=report.conversations)
    return Row(
        metric="dialogue termination",
        speaker=speaker,
        key=key,
        label=label,
        better="higher",
        value=value,
        human=None,
        gap=None,
        note=note,
    )
