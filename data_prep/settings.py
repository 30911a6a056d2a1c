"""What a run of `usersim prep` was asked to do; recorded in the datasheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_prep.dedup.duplicates import NEAR_DUPLICATE, TEMPLATE_COUNT
from data_prep.sources.messages import Ends
from usersim.storage.toml_config import Config

Share = Annotated[float, Field(ge=0, le=1)]
Fractions = tuple[Share, Share, Share]


class Bounds(Config):
    """A conversation is cut before the first user turn that is too long; the others are rejections."""

    user_chars: int | None = Field(default=20_000, ge=1)
    """Longest user turn: beyond it a paste, not something a person typed."""
    turns: int | None = Field(default=400, ge=1)
    """Turns of both sides."""
    chars: int | None = Field(default=2_000_000, ge=1)
    """Characters of both sides."""


class SourceSettings(Config):
    spec: str
    """As SOURCE on the command line."""
    name: str | None = None
    """`source` of the records; default: the corpus or file name."""
    ends: Ends = "natural"
    split_fractions: Fractions | None = None
    """Of this source; default: those of the run."""
    frozen_test: str | None = None
    """A packaged list, or a file of ids: exactly these and their groups are the test split."""


class Duplicates(Config):
    template_count: int | None = Field(default=TEMPLATE_COUNT, ge=1)
    """An opening n-gram in more conversations than this is a template: one representative is kept. None: off."""
    near_duplicate: float | None = Field(default=NEAR_DUPLICATE, gt=0, le=1)
    """Jaccard similarity of the user turns from which on the later of two goes. None: off."""


class Settings(Config):
    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    out: Path
    goals: tuple[Path, ...] = ()
    shipped_goals: bool = True
    """Goals that come with the package are joined to the chats they are of, where `goals` has none for them."""
    held_out: tuple[str, ...] = ()
    """Sources marked test only: a train or dev conversation that shares an opening or is a near-duplicate goes."""
    limit: int | None = Field(default=None, ge=1)
    """Chats read from each source, before any is rejected."""
    seed: int = 0
    split_fractions: Fractions = (0.9, 0.05, 0.05)
    language: Literal["en", "any"] = "en"
    bounds: Bounds = Bounds()
    drop_flagged: tuple[str, ...] = ()
    """Chats with one of these flags go; otherwise flags are metadata."""
    scrub: bool = True
    duplicates: Duplicates = Duplicates()
    personas: Literal["mask", "raw", "none"] = "mask"
    """What becomes of free-text personas: words that give the goal away masked, kept, or no free text."""
    strict: bool = False
    """A malformed record ends the run."""
    engine: Literal["local", "ray"] = "local"
    workers: int = Field(default=1, ge=1)
    """Processes that clean."""
    batch: int = Field(default=256, ge=1)
    """Chats a stage sees at once."""
    shard: int = Field(default=16, ge=1)
    """Batches whose result is kept at once; an interrupted run goes on after the last."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> Settings:
        for fractions in (self.split_fractions, *(s.split_fractions for s in self.sources)):
            if fractions is not None and abs(sum(fractions) - 1) > 1e-6:
                raise ValueError(f"split_fractions {fractions}: three shares that add up to 1")
        return self

    def fractions(self) -> tuple[Fractions, ...]:
        """Of each source."""
        return tuple(source.split_fractions or self.split_fractions for source in self.sources)

    def cleaning(self) -> dict[str, object]:
        """What the first pass depends on: with the same values its shards can be used again."""
        names = {"sources", "held_out", "limit", "language", "bounds", "drop_flagged", "scrub", "strict"}
        near = self.duplicates.near_duplicate is not None
        return {**self.model_dump(mode="json", include=names | {"batch", "shard"}), "near": near}
