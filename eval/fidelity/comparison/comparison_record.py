"""The record of a comparison of two simulators: everything that `compare.json` holds."""

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


class FigureGap(Record):
    """One figure of both simulators. The floor is the same for both, so it drops out of the difference."""

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
    """From the floor's median to its far end, for showing gaps of different units on one axis; at least a quarter of
    the gap's standard deviation, for figures that hardly any human split shows."""
    p: float
    """Two-sided, of a gap of nothing; of this figure by itself."""
    p_holm: float
    """The same, adjusted for all figures of its family: headline figures, second views."""
    winner: Winner


class Comparison(Record):
    kind: Literal["comparison"] = "comparison"
    paired: bool
    """The same goals on both sides, resampled jointly; False: two finished reports, taken as independent."""
    n: int
    """Conversations of each simulator, and of humans."""
    goals: int | None
    """Goals (or cases) that the pairs belong to, the unit of the bootstrap; None: not paired."""
    first: Contender
    second: Contender
    human_file: FileFacts
    figures: tuple[FigureGap, ...]
    missing: dict[str, str] = Field(default_factory=dict)
    """Figures that one side at least does not have, with the reason."""
    notes: tuple[str, ...]
    config: EvalConfig
    versions: dict[str, str]
    seconds: float
    command: str = ""

    def labels(self, *winners: Winner) -> tuple[str, ...]:
        """Headline figures with one of these winners."""
        return tuple(figure.label for figure in self.figures if figure.headline and figure.winner in winners)


def gap_of(first: Figure, second: Figure, gap: Estimate, p: float) -> FigureGap:
    """By itself; `with_winners` adjusts for its company."""
    return FigureGap(
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


def with_winners(gaps: Sequence[FigureGap]) -> tuple[FigureGap, ...]:
    """Holm over the headline figures and, apart from them, over their second views. A winner needs p ≤ 0.05 after
    that and an interval without zero."""
    adjusted: dict[str, float] = {}
    for headline in (True, False):
        family = [gap for gap in gaps if gap.headline == headline]
        adjusted |= dict(zip([g.key for g in family], holm([g.p for g in family]), strict=True))
    found = (gap.model_copy(update={"p_holm": adjusted[gap.key]}) for gap in gaps)
    return tuple(gap.model_copy(update={"winner": _winner(gap)}) for gap in found)


def _winner(found: FigureGap) -> Winner:
    if found.gap.n < TRUSTED_N:
        return "too few"
    if found.p_holm > ALPHA or found.gap.low <= 0 <= found.gap.high:
        return "inconclusive"
    return "second" if found.gap.value > 0 else "first"
