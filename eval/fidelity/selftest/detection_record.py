"""Record of a self-test: the planted faults that each metric family caught."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eval.fidelity.report_record import FileFacts, Headline
from eval.fidelity.settings import EvalConfig
from usersim.types import Record

Expected = Literal["like human", "different"]


class DetectionCell(Record):
    """One metric family on one control."""

    figures: int
    """Headline metrics that could be measured."""
    caught: tuple[str, ...]
    """Labels of those called different after Holm's adjustment over all headline metrics."""
    worst: float | None
    """Excess of its worst metric in baseline widths; None where nothing could be measured."""

    @property
    def detects(self) -> bool:
        return bool(self.caught)


class Control(Record):
    key: str
    label: str
    planted: str
    """Description of the planted fault."""
    expected: Expected
    n: int
    """Conversations of the control."""
    headline: Headline
    cells: dict[str, DetectionCell]
    """By metric family, as named in `EvalConfig.metrics`; and `gates`."""

    @property
    def caught_by(self) -> tuple[str, ...]:
        return tuple(name for name, cell in self.cells.items() if cell.detects)


class SelfTest(Record):
    kind: Literal["selftest"] = "selftest"
    title: str = "Self-test: what each metric sees"
    n: int
    """Conversations per side in every comparison."""
    pool: int
    """Human conversations of the human baseline; none of these people is in a control made of humans."""
    turn_cap: int | None
    metrics: tuple[str, ...]
    """Rows of the table."""
    controls: tuple[Control, ...]
    left_out: dict[str, str]
    """Controls that could not be made, with the reason."""
    blind_spots: tuple[str, ...]
    """Sentences, one a blind spot."""
    floors: dict[str, tuple[float, float]]
    """Headline metric → median and far end of its human baseline."""
    notes: tuple[str, ...]
    human_file: FileFacts | None = None
    other_files: dict[str, FileFacts] = Field(default_factory=dict)
    config: EvalConfig
    versions: dict[str, str]
    seconds: float
    command: str = ""
