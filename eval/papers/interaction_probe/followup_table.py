"""Record of a probe, and its Markdown."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eval.fidelity.report_record import FileFacts
from eval.papers.interaction_probe.followup import KINDS
from eval.papers.user_sim_index.index_table import head, row, spread
from usersim.stats.estimates import Estimate
from usersim.types import Record

Condition = Literal["own answer", "wrong answer"]


class ProbeRow(Record):
    """One speaker in one condition. Shares are of the contexts."""

    speaker: str
    temperature: float | None
    """None for people."""
    shown: Condition
    """Answer in the context. A wrong one is the answer to another query: reactions to the own answer are then chance
    (for people: the follow-up of another context)."""
    genuine: Estimate
    kinds: dict[str, float]
    """Share of each kind, the first that applies (`eval.papers.interaction_probe.followup.KINDS`)."""
    grounded: Estimate | None
    """Share of the non-empty texts that fit their own answer by likelihood *and* embedding."""
    by_likelihood: Estimate | None
    by_embedding: Estimate | None
    nats: Estimate | None
    """Mean log-likelihood ratio of the own answer to the wrong ones."""
    words: float | None
    """Median number of words."""


class Gap(Record):
    """Difference in genuine follow-ups of a model from its null condition, and from people."""

    speaker: str
    temperature: float
    over_null: Estimate
    under_people: Estimate
    """Share of people minus share of the model."""


class ProbeReport(Record):
    kind: Literal["probe"] = "probe"
    model: str
    weights: str
    scorer: str
    """Model that computes the likelihoods; the probed model favours its own words."""
    contexts: int
    wrong_answers: int
    chance: float
    """Probability that an unrelated text fits the own answer best by likelihood."""
    rows: tuple[ProbeRow, ...]
    gaps: tuple[Gap, ...]
    excluded: dict[str, int]
    failed: dict[str, int] = Field(default_factory=dict)
    voice_sensitivity: float | None
    """Share of real assistant turns that the voice classifier detects; None: too few conversations to train it."""
    notes: tuple[str, ...]
    human_file: FileFacts | None = None
    seed: int
    versions: dict[str, str]
    seconds: float
    command: str = ""


def markdown(report: ProbeReport) -> str:
    table = head(
        "speaker", "T", "after", "genuine", *KINDS[1:], "fits by likelihood", "by embedding", "nats", "words"
    )
    for probe_row in report.rows:
        table.append(
            row(
                probe_row.speaker,
                "-" if probe_row.temperature is None else f"{probe_row.temperature:g}",
                probe_row.shown,
                spread(probe_row.genuine, 2),
                *(f"{probe_row.kinds.get(kind, 0.0):.2f}" for kind in KINDS[1:]),
                *(
                    "-" if e is None else spread(e, 2)
                    for e in (probe_row.by_likelihood, probe_row.by_embedding, probe_row.nats)
                ),
                "-" if probe_row.words is None else f"{probe_row.words:.0f}",
            )
        )
    gaps = head("speaker", "T", "genuine over its null", "people over it")
    for gap in report.gaps:
        gaps.append(
            row(gap.speaker, f"{gap.temperature:g}", spread(gap.over_null, 2), spread(gap.under_people, 2))
        )
    parts = [
        f"# Interaction awareness of {report.model} (after arXiv 2604.02315)",
        f"{report.contexts} contexts; the right answer against {report.wrong_answers} wrong ones, "
        f"chance {report.chance:.2f}; likelihoods by {report.scorer}",
        "\n".join(table),
        "\n".join(gaps),
        f"Left out: {report.excluded}" if report.excluded else "",
        "\n".join(f"- {note}" for note in report.notes),
        f"`{report.command}`, seed {report.seed}, {report.seconds:.0f} s" if report.command else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
