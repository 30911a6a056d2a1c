"""What the probe found, and as Markdown."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eval.fidelity.report_record import FileFacts
from eval.papers.interaction_probe.followup import KINDS
from eval.papers.user_sim_index.index_table import head, row, spread
from usersim.stats.estimates import Estimate
from usersim.types import Record

Shown = Literal["own answer", "wrong answer"]


class ProbeRow(Record):
    """One speaker in one condition. Shares are of the contexts."""

    speaker: str
    temperature: float | None
    """None for people."""
    shown: Shown
    """What stood before it. A wrong one is the answer to somebody else's query: whatever counts as a reaction to the
    own answer then is chance (for people: somebody else's follow-up)."""
    genuine: Estimate
    kinds: dict[str, float]
    """Share of each outcome, the first that applies (`eval.papers.interaction_probe.followup.KINDS`)."""
    grounded: Estimate | None
    """Of those that say something, share that fits its own answer by likelihood *and* embedding."""
    by_likelihood: Estimate | None
    by_embedding: Estimate | None
    nats: Estimate | None
    """Mean log-likelihood ratio of own against wrong answers."""
    words: float | None
    """Median."""


class Gap(Record):
    """Genuine follow-ups: a model against its own null, and against people."""

    speaker: str
    temperature: float
    over_null: Estimate
    under_people: Estimate
    """People less the model."""


class ProbeReport(Record):
    kind: Literal["probe"] = "probe"
    model: str
    weights: str
    scorer: str
    """The model whose likelihoods decide; where it is the probed one, it favours its own words."""
    contexts: int
    wrong_answers: int
    chance: float
    """Of fitting the own answer best by likelihood, for text that has nothing to do with it."""
    rows: tuple[ProbeRow, ...]
    gaps: tuple[Gap, ...]
    excluded: dict[str, int]
    failed: dict[str, int] = Field(default_factory=dict)
    voice_sensitivity: float | None
    """Share of real assistant turns that the classifier of voices finds; None: too few conversations to learn from."""
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
    for found in report.rows:
        table.append(
            row(
                found.speaker,
                "-" if found.temperature is None else f"{found.temperature:g}",
                found.shown,
                spread(found.genuine, 2),
                *(f"{found.kinds.get(kind, 0.0):.2f}" for kind in KINDS[1:]),
                *(
                    "-" if e is None else spread(e, 2)
                    for e in (found.by_likelihood, found.by_embedding, found.nats)
                ),
                "-" if found.words is None else f"{found.words:.0f}",
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
