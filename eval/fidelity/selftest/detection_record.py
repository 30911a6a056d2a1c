"""The record of a self-test: which metric caught which planted fault."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eval.fidelity.report_record import FileFacts, Headline
from eval.fidelity.settings import EvalConfig
from usersim.types import Record

Expected = Literal["like human", "different"]


class Cell(Record):
    """One metric on one control."""

    figures: int
    """Headline figures that could be measured."""
    caught: tuple[str, ...]
    """Labels of those called different after Holm's adjustment over all headline figures."""
    worst: float | None
    """Excess of its worst figure in floor widths; None where nothing could be measured."""

    @property
    def detects(self) -> bool:
        return bool(self.caught)


class Control(Record):
    key: str
    label: str
    planted: str
    """What was done, in words."""
    expected: Expected
    n: int
    """Conversations given."""
    headline: Headline
    cells: dict[str, Cell]
    """By metric, as named in `EvalConfig.metrics`; and `gates`."""

    @property
    def caught_by(self) -> tuple[str, ...]:
        return tuple(name for name, cell in self.cells.items() if cell.detects)


class SelfTest(Record):
    kind: Literal["selftest"] = "selftest"
    title: str = "Self-test: what each metric sees"
    n: int
    """Conversations per side in every comparison."""
    pool: int
    """Human conversations behind the floor; nobody of them is in a control made of humans."""
    turn_cap: int | None
    metrics: tuple[str, ...]
    """Rows of the table."""
    controls: tuple[Control, ...]
    left_out: dict[str, str]
    """Controls that could not be made, with the reason."""
    blind_spots: tuple[str, ...]
    """In words."""
    floors: dict[str, tuple[float, float]]
    """Headline figure → median and far end of its human floor."""
    notes: tuple[str, ...]
    human_file: FileFacts | None = None
    other_files: dict[str, FileFacts] = Field(default_factory=dict)
    config: EvalConfig
    versions: dict[str, str]
    seconds: float
    command: str = ""
