"""What a run of `usersim prep` was asked to do; recorded in the datasheet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from data_prep.sources.messages import Ends
from usersim.config import Config


class Settings(Config):
    source: str
    out: Path
    limit: int | None = Field(default=None, ge=1)
    """Chats read from the source, before any is rejected."""
    goals: tuple[Path, ...] = ()
    seed: int = 0
    split_fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    language: Literal["en", "any"] = "en"
    user_max_chars: int | None = Field(default=None, ge=1)
    ends: Ends = "natural"
    source_name: str | None = None
