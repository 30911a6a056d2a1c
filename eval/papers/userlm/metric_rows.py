"""Records of the six metrics: rows of one number each, and the two curves of intent decomposition."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from eval.fidelity.metrics.endings.ending import EndReport
from eval.fidelity.report_record import FileFacts
from usersim.stats.estimates import Estimate, Floats, interval
from usersim.types import Record

Name = Literal[
    "first-turn diversity",
    "intent decomposition",
    "dialogue termination",
    "naturalness",
    "role adherence",
    "intent adherence",
]
Better = Literal["as people", "higher", "lower"]


class Row(Record):
    """One metric of one speaker beside the people's value."""

    metric: Name
    speaker: str
    key: str
    label: str
    better: Better
    value: Estimate
    human: Estimate | None
    """Value of people at the same n; None where no person was in that situation."""
    gap: Estimate | None
    """`value` minus `human`."""
    judge: str | None = None
    """Model that judged; None: no judge needed."""
    note: str = ""


class ByTurn(Record):
    """Content words shared with the goal, and nearness to the own goal, by user turn 1, 2, … and "5+"."""

    speaker: str
    turns: tuple[str, ...]
    overlap: tuple[Estimate | None, ...]
    relevance: tuple[Estimate | None, ...]


class Ends(Record):
    speaker: str
    drawn: EndReport
    """F1 of leaving, from the sampled decisions."""
    probability: EndReport | None
    """F1 of leaving by the reported P(end) at a threshold of one half, with calibration; None where the speaker
    reports none."""


class UserLMReport(Record):
    kind: Literal["userlm"] = "userlm"
    rows: tuple[Row, ...]
    curves: tuple[ByTurn, ...]
    ends: tuple[Ends, ...]
    checks: dict[str, Estimate] = Field(default_factory=dict)
    """Accuracy of the rules on planted lines, and their error rate on people."""
    missing: dict[str, str]
    """Metrics that were not measured, with the reason."""
    excluded: dict[str, dict[str, int]]
    """By speaker: exclusions from a metric, by reason."""
    notes: tuple[str, ...]
    human_file: FileFacts | None = None
    files: dict[str, FileFacts] = Field(default_factory=dict)
    judge_usage: dict[str, Any] = Field(default_factory=dict)
    seed: int
    bootstrap: int
    versions: dict[str, str]
    seconds: float
    command: str = ""


class UserLMSettings(Record):
    """Settings of a measurement."""

    out: Path
    seed: int = 0
    bootstrap: int = 1000
    max_n: int = 500
    """Conversations per side in the metrics of finished conversations."""
    places: int = 100
    """Conversation prefixes, questions and diversions for each live user."""


@dataclass
class MetricTally:
    """Results measured so far."""

    rows: list[Row] = field(default_factory=list)
    curves: list[ByTurn] = field(default_factory=list)
    ends: list[Ends] = field(default_factory=list)
    checks: dict[str, Estimate] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, dict[str, int]] = field(default_factory=dict)
    human_excluded: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Value:
    """A value with its bootstrap replicates, before it is compared."""

    value: float
    replicates: Floats
    n: int

    @property
    def estimate(self) -> Estimate:
        low, high = interval(self.replicates[np.isfinite(self.replicates)])
        return Estimate(value=self.value, low=low, high=high, n=self.n)

    def less(self, other: Value) -> Estimate:
        """Returns the difference of two values that were resampled independently."""
        gaps = self.replicates - other.replicates
        low, high = interval(gaps[np.isfinite(gaps)])
        return Estimate(value=self.value - other.value, low=low, high=high, n=min(self.n, other.n))


def ratio(above_N: Floats, below_N: Floats, counts_BN: Floats) -> Value | None:
    """Returns Σabove / Σbelow over conversations; None where Σbelow is 0. `n` counts conversations with a positive
    `below`."""
    if not below_N.sum():
        return None
    totals = counts_BN @ below_N
    replicates = np.divide(counts_BN @ above_N, totals, out=np.full_like(totals, np.nan), where=totals > 0)
    return Value(
        value=float(above_N.sum() / below_N.sum()), replicates=replicates, n=int((below_N > 0).sum())
    )
