"""Next turns of a simulator by prefix, drawn or read from a file of precomputed turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from eval.next_turn.prefixes import Prefix
from usersim.errors import DataError
from usersim.storage.records import read_records, write_records
from usersim.types import Record


class NextTurn(Record):
    """Next turn of a simulator at a prefix; one line of a file of precomputed turns."""

    prefix: str
    """Id of the prefix."""
    text: str | None = None
    """Text of the turn. A simulator with an `end_probability` may have one although it left."""
    ends: bool = False
    """True if it left here."""
    end_probability: float | None = Field(default=None, ge=0, le=1)
    """P(leaving here) before drawing; None if the simulator has none."""

    @model_validator(mode="after")
    def _says_or_leaves(self) -> Self:
        if not self.ends and not (self.text or "").strip():
            raise ValueError("a turn without text must have ends = true")
        return self


@dataclass(frozen=True)
class SimulatedTurns:
    """Next turns of one simulator. Prefixes at which it failed are counted and have none."""

    name: str
    turns: Mapping[str, NextTurn]
    """By prefix id."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Number of prefixes without a turn, by error."""
    note: str = ""
    """Settings of the drawing: model, prompt, temperature, guards."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Number of tokens drawn by prefix id, where the turns were drawn here."""

    def text(self, prefix: Prefix) -> str | None:
        """Text at a prefix; None without one."""
        turn = self.turns.get(prefix.id)
        return None if turn is None or not (turn.text or "").strip() else turn.text


def people_as_simulator(prefixes: Sequence[Prefix], name: str = "people") -> SimulatedTurns:
    """Returns the people themselves in the form of a simulator."""
    return SimulatedTurns(name, {p.id: NextTurn(prefix=p.id, text=p.text, ends=p.has_left) for p in prefixes})


def read_turns(path: str | Path, name: str) -> SimulatedTurns:
    """Reads precomputed turns from JSON Lines of `NextTurn`. Raises DataError for a duplicate prefix."""
    turns: dict[str, NextTurn] = {}
    for number, turn in enumerate(read_records(path, NextTurn), start=1):
        if turn.prefix in turns:
            raise DataError(f"{path}:{number}: duplicate prefix {turn.prefix!r}; keep one line per prefix")
        turns[turn.prefix] = turn
    if not turns:
        raise DataError(
            f"{path}: the file has no turns; write one line per prefix: {{prefix, text, ends, end_probability}}"
        )
    return SimulatedTurns(name, turns, note=f"precomputed turns of {Path(path).name}")


def write_turns(path: str | Path, turns: Iterable[NextTurn]) -> int:
    return write_records(path, turns)


def shared_prefixes(prefixes: Sequence[Prefix], simulators: Sequence[SimulatedTurns]) -> list[Prefix]:
    """Returns the prefixes at which the person and every simulator wrote a turn; all are measured at the same ones."""
    return [p for p in prefixes if p.text is not None and all(s.text(p) is not None for s in simulators)]
