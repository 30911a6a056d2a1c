"""Cut points between low, middle and high for each style attribute, fixed so that phrases keep their meaning.

The shipped cut points were measured once over human conversations (`usersim data styles`), independent of any model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from usersim.errors import ConfigError
from usersim.storage.records import explain
from usersim.types import Record

SHIPPED = Path(__file__).parents[1] / "assets" / "style_bins.json"
Level = Literal["low", "middle", "high"]
LEVELS: tuple[Level, ...] = ("low", "middle", "high")


class Bin(Record):
    """Cut points of one attribute: low up to and including `low`, high above `high`."""

    low: float
    high: float
    n: int
    """Number of conversations with the attribute."""

    def level(self, value: float) -> Level:
        return "low" if value <= self.low else "high" if value > self.high else "middle"


class StyleBins(Record):
    """Cut points of all style attributes."""

    attributes: dict[str, Bin]
    conversations: dict[str, int]
    """Number of measured conversations by corpus."""


def read_bins(path: Path) -> StyleBins:
    try:
        return StyleBins.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); make it with `usersim data styles`") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: not a file of style bins: {explain(error)}") from error


@cache
def shipped_bins() -> StyleBins:
    return read_bins(SHIPPED)
