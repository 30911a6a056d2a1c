"""Where low, middle and high begin for each attribute of style: a fixed reference, so that words keep their meaning.

The shipped cut points were measured once over human conversations (`usersim data styles`); no model moves them.
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
    """Low up to and including `low`, high above `high`."""

    low: float
    high: float
    n: int
    """Conversations that state the attribute."""

    def level(self, value: float) -> Level:
        return "low" if value <= self.low else "high" if value > self.high else "middle"


class StyleBins(Record):
    attributes: dict[str, Bin]
    conversations: dict[str, int]
    """How many of each corpus they were measured over."""


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
