"""The protocol that every metric with a human floor follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from eval.estimates import Draws, FigureSpec, Floats, Measured, Split
from eval.features import Sample


class Metric(Protocol):
    """Pure: the same samples, splits and draws give the same numbers. Figures go by `FigureSpec.key`."""

    @property
    def specs(self) -> Sequence[FigureSpec]: ...

    def floor(self, pool: Sample, splits: Sequence[Split]) -> dict[str, Floats]:
        """Each figure between the two halves of every split of the human `pool`."""
        ...

    def measure(self, simulated: Sample, human: Sample, *, pool: Sample, draws: Draws) -> dict[str, Measured]:
        """Each figure between equally many simulated and human conversations; `human` is drawn from `pool`,
        which fixes scales so that they do not depend on the simulator."""
        ...
