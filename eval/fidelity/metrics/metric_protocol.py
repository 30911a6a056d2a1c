"""Protocol of the metric families with a human baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from eval.fidelity.samples.features import Sample
from usersim.stats.estimates import Draws, Estimate, FigureSpec, Floats, Measured, Split
from usersim.types import Record


class Curve(Record):
    """Values along an axis, humans beside one simulator: for display, without a verdict."""

    key: str
    metric: str
    label: str
    x_label: str
    y_label: str
    x: tuple[str, ...]
    """One label per point; points are in order unless `categories`."""
    human: tuple[Estimate | None, ...]
    """None where nothing could be measured."""
    simulated: tuple[Estimate | None, ...]
    categories: bool = False
    """True: the points are separate categories (bars), not a sequence (a line)."""


class MetricFamily(Protocol):
    """Protocol of a family of metrics that are computed together. Pure: the same samples, splits and draws give
    the same numbers. Metrics are keyed by `FigureSpec.key`."""

    @property
    def specs(self) -> Sequence[FigureSpec]: ...

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        """Returns the human baseline: each metric between the two halves of every split of the human `pool`; NaN
        where a half has nothing to measure."""
        ...

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        """Returns each metric between equally many simulated and human conversations.

        `human` is sampled from `pool`, which fixes scales so that they do not depend on the simulator. A metric that
        the data cannot give (no goals, no second turn) is missing from the result, never zero.
        """
        ...


@runtime_checkable
class Curves(Protocol):
    """Metric family that also has curves."""

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> Sequence[Curve]: ...
