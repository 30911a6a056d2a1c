"""Dialogue termination: whether the simulated user leaves where the person left, at prefixes of real conversations.

A prefix ends after an answer before which the person has spoken. The paper also counts openings; its trivial
baselines are in the report. Prefixes beyond the first `MOST` answers are not sampled.
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
    """Returns the prefixes with their goals. Where the corpus cut a conversation, its last prefix is left out."""
    return [
        Ask(f"end {c.id} {length}", UserProfile(goal=c.profile.goal), c.turns[:length])
        for c in conversations
        for length in _prefix_lengths(c)
    ]


def _prefix_lengths(conversation: Conversation) -> list[int]:
    turns = conversation.turns
    first_user_turn = next((i for i, turn in enumerate(turns) if turn.role == "user"), len(turns))
    after_answers = [
        i + 1 for i, turn in enumerate(turns) if turn.role == "assistant" and i > first_user_turn
    ]
    last_is_known = conversation.ended_by == "user"
    return [i for i in after_answers if i < len(turns) or last_is_known][:MOST]


def ends(speaker: str, conversations: Sequence[Conversation], batch: Batch, counts_BN: Floats) -> Ends | None:
    """Returns the results; None where the prefixes hold no leaving, or only leaving."""
    sampled_parts: list[tuple[list[float], list[int]]] = []
    probability_parts: list[tuple[list[float], list[int]]] = []
    for conversation in conversations:
        lengths = [p for p in _prefix_lengths(conversation) if f"end {conversation.id} {p}" in batch.turns]
        turns = [batch.turns[f"end {conversation.id} {p}"] for p in lengths]
        is_left = [int(p == len(conversation.turns)) for p in lengths]
        sampled_parts.append(([float(turn.ends) for turn in turns], is_left))
        probability_parts.append(([turn.end_probability for turn in turns], is_left))
    report = report_ends(join(sampled_parts), counts_BN)
    if report is None:
        return None
    probabilities = np.array([p for ps, _ in probability_parts for p in ps])
    has_probabilities = bool(((probabilities > 0) & (probabilities < 1)).any())
    return Ends(
        speaker=speaker,
        drawn=report,
        probability=report_ends(join(probability_parts), counts_BN) if has_probabilities else None,
    )


def end_rows(end_results: Ends) -> list[Row]:
    rows = [_row(end_results.speaker, "f1_drawn", "F1 of leaving, as drawn", end_results.drawn)]
    if end_results.probability is not None:
        rows.append(
            _row(
                end_results.speaker, "f1_at_half", "F1 of leaving where P(end) ≥ 0.5", end_results.probability
            )
        )
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
