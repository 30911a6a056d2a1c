"""Record of a comparison of two simulators: everything that `compare.json` holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from eval.fidelity.report_record import FileFacts
from eval.fidelity.settings import TRUSTED_N, EvalConfig
from eval.fidelity.verdicts import ALPHA, floor_width, holm
from usersim.stats.estimates import Estimate, Figure
from usersim.types import Record

Winner = Literal["first", "second", "inconclusive", "too few"]


class Contender(Record):
    name: str
    file: FileFacts | None = None
    compared: int
    """Conversations that entered the comparison."""
    left_out: int
    """Kept by the battery, but without a partner or beyond n."""


class MetricGap(Record):
    """One metric of both simulators. The human baseline is the same for both, so it cancels in the difference."""

    key: str
    metric: str
    label: str
    unit: str
    headline: bool
    first: Figure
    second: Figure
    gap: Estimate
    """Excess of the first minus excess of the second; positive: the second is closer to human."""
    floor_width: float
    """Distance from the baseline's median to its far end, for showing gaps of different units on one axis. At least a
    quarter of the gap's standard deviation, for metrics that hardly any human split shows."""
    p: float
    """Two-sided p-value of a gap of zero, for this metric alone."""
    p_holm: float
    """p-value adjusted for all metrics of its family of tests: headline metrics, or second views."""
    winner: Winner


class SimulatorComparison(Record):
    kind: Literal["comparison"] = "comparison"
    paired: bool
    """True: the same goals on both sides, resampled jointly. False: two finished reports, treated as independent."""
    n: int
    """Conversations of each simulator, and of humans."""
    goals: int | None
    """Goals (or cases) that the pairs belong to, the unit of the bootstrap; None: not paired."""
    first: Contender
    second: Contender
    human_file: FileFacts
    figures: tuple[MetricGap, ...]
    missing: dict[str, str] = Field(default_factory=dict)
    """Metrics that at least one side lacks, with the reason."""
    notes: tuple[str, ...]
    config: EvalConfig
    versions: dict[str, str]
    seconds: float
    command: str = ""

    def labels(self, *winners: Winner) -> tuple[str, ...]:
        """Returns the labels of the headline metrics with one of these winners."""
        return tuple(metric.label for metric in self.figures if metric.headline and metric.winner in winners)


def gap_of(first: Figure, second: Figure, gap: Estimate, p: float) -> MetricGap:
    """Returns the gap with an unadjusted p-value; `with_winners` adjusts for the other metrics."""
    return MetricGap(
        key=first.key,
        metric=first.metric,
        label=first.label,
        unit=first.unit,
        headline=first.headline,
        first=first,
        second=second,
        gap=gap,
        floor_width=max(floor_width(first.floor, first.worse), (gap.high - gap.low) / 16, 1e-9),
        p=p,
        p_holm=p,
        winner="inconclusive",
    )


def with_winners(gaps: Sequence[MetricGap]) -> tuple[MetricGap, ...]:
    """Applies Holm's adjustment to the headline metrics and, separately, to the second views. A winner needs an
    adjusted p ≤ 0.05 and an interval without zero."""
    adjusted: dict[str, float] = {}
    for headline in (True, False):
        family = [gap for gap in gaps if gap.headline == headline]
        adjusted |= dict(zip([g.key for g in family], holm([g.p for g in family]), strict=True))
    adjusted_gaps = (gap.model_copy(update={"p_holm": adjusted[gap.key]}) for gap in gaps)
    return tuple(gap.model_copy(update={"winner": _winner(gap)}) for gap in adjusted_gaps)


def _winner(gap: MetricGap) -> Winner:
    if gap.gap.n < TRUSTED_N:
        return "too few"
    if gap.p_holm > ALPHA or gap.gap.low <= 0 <= gap.gap.high:
        return "inconclusive"
    return "second" if gap.gap.value > 0 else "first"
