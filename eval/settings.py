"""What a comparison can be told. Everything random follows from `seed`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from usersim.config import Config

Name = Literal["marginals", "text", "behaviour", "coverage"]
TRUSTED_N = 50
"""Conversations per side below which no verdict is given."""


class EvalConfig(Config):
    seed: int = 0
    bootstrap: int = Field(default=1000, ge=20)
    """Resamples of the conversations behind every 95 % interval."""
    floor_repeats: int = Field(default=200, ge=10)
    """Random splits of the human conversations behind the floor."""
    min_n: int = Field(default=TRUSTED_N, ge=10)
    """Fewer conversations per side are refused."""
    max_n: int = Field(default=1000, ge=10)
    """More per side are subsampled: the classifiers' time grows with n."""
    turn_cap: int | None = Field(default=None, ge=1)
    """User turns at which every conversation is cut; None: inferred from the simulated ones."""
    same_goals: bool = False
    """Compare only with human conversations whose goal every simulator was given."""
    metrics: tuple[Name, ...] = Field(default=("marginals", "text", "behaviour", "coverage"), min_length=1)
    """The gates are always there. The two classifiers take most of the time."""
    folds: int = Field(default=5, ge=2)
    neighbours: int = Field(default=5, ge=1)
    """k of coverage and density."""
    text_characters: int = Field(default=4000, ge=100)
    """The text classifier reads this much of a conversation's user turns."""
    examples: int = Field(default=3, ge=0)
    """Conversations of each side shown in the report; 0 (`--no-text`) keeps all chat text out of it."""


QUICK = {"bootstrap": 300, "floor_repeats": 30}
"""What `--quick` changes: wider floors, the same figures."""
