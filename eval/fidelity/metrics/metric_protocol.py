"""The protocol that every metric with a human floor follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from eval.fidelity.samples.features import Sample
from usersim.stats.estimates import Draws, Estimate, FigureSpec, Floats, Measured, Split
from usersim.types import Record


class Curve(Record):
    """Something that runs along an axis, humans beside one simulator: for the eye, without a verdict."""

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
    """The points are separate things (bars), not a course (a line)."""


class Metric(Protocol):
    """Pure: the same samples, splits and draws give the same numbers. Figures go by `FigureSpec.key`."""

    @property
    def specs(self) -> Sequence[FigureSpec]: ...

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        """Each figure between the two halves of every split of the human `pool`; NaN where a half has nothing
        to measure."""
        ...

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        """Each figure between equally many simulated and human conversations; `human` is drawn from `pool`,
        which fixes scales so that they do not depend on the simulator. A figure that the data cannot give
        (no goals, no second turn) is left out of the answer, never zero."""
        ...


@runtime_checkable
class Curves(Protocol):
    """A metric that can also be drawn."""

    def curves(self, simulated: Sample, human: Sample, *, draws: Draws) -> Sequence[Curve]: ...
