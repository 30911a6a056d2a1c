"""Settings of a `usersim prep` run; recorded in the datasheet."""

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
    """Length limits. A too long user turn cuts the conversation before it; the others reject it."""

    user_chars: int | None = Field(default=20_000, ge=1)
    """Longest user turn in characters. A longer one is a paste, not typed text."""
    turns: int | None = Field(default=400, ge=1)
    """Most turns of both sides together."""
    chars: int | None = Field(default=2_000_000, ge=1)
    """Most characters of both sides together."""


class SourceSettings(Config):
    spec: str
    """SOURCE, as on the command line."""
    name: str | None = None
    """`source` of the records (default: the corpus or file name)."""
    ends: Ends = "natural"
    split_fractions: Fractions | None = None
    """Shares of the splits for this source (default: those of the run)."""
    frozen_test: str | None = None
    """Name of a packaged list, or file of ids: exactly these conversations and their groups are the test split."""


class Duplicates(Config):
    template_count: int | None = Field(default=TEMPLATE_COUNT, ge=1)
    """An opening n-gram in more conversations than this is a template; one of them is kept. None: off."""
    near_duplicate: float | None = Field(default=NEAR_DUPLICATE, gt=0, le=1)
    """Jaccard similarity of user turns from which the later conversation is dropped. None: off."""


class PrepSettings(Config):
    sources: tuple[SourceSettings, ...] = Field(min_length=1)
    out: Path
    goals: tuple[Path, ...] = ()
    shipped_goals: bool = True
    """Joins the packaged goals to chats of their source that have none in `goals`."""
    held_out: tuple[str, ...] = ()
    """Test-only sources. A train or dev conversation that shares an opening with one, or is a near-duplicate of
    one, is dropped."""
    limit: int | None = Field(default=None, ge=1)
    """Most chats read from each source, counted before any is rejected."""
    seed: int = 0
    split_fractions: Fractions = (0.9, 0.05, 0.05)
    language: Literal["en", "any"] = "en"
    bounds: Bounds = Bounds()
    drop_flagged: tuple[str, ...] = ()
    """Flags that drop a chat; all other flags stay as metadata."""
    scrub: bool = True
    duplicates: Duplicates = Duplicates()
    personas: Literal["mask", "raw", "none"] = "mask"
    """Treatment of free-text personas: mask the words that give the goal away, keep them, or drop the text."""
    strict: bool = False
    """A malformed record ends the run."""
    engine: Literal["local", "ray"] = "local"
    workers: int = Field(default=1, ge=1)
    """Cleaning processes."""
    batch: int = Field(default=256, ge=1)
    """Chats per batch."""
    shard: int = Field(default=16, ge=1)
    """Batches per shard. An interrupted run resumes after the last complete shard."""

    @model_validator(mode="after")
    def _shares_add_up(self) -> PrepSettings:
        for fractions in (self.split_fractions, *(s.split_fractions for s in self.sources)):
            if fractions is not None and abs(sum(fractions) - 1) > 1e-6:
                raise ValueError(f"split_fractions {fractions}: three shares that add up to 1")
        return self

    def fractions(self) -> tuple[Fractions, ...]:
        """Returns the split shares of each source."""
        return tuple(source.split_fractions or self.split_fractions for source in self.sources)

    def cleaning(self) -> dict[str, object]:
        """Returns the settings that the first pass depends on. Shards of a run with equal values are reused."""
        names = {"sources", "held_out", "limit", "language", "bounds", "drop_flagged", "scrub", "strict"}
        near = self.duplicates.near_duplicate is not None
        return {**self.model_dump(mode="json", include=names | {"batch", "shard"}), "near": near}
