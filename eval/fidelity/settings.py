"""What a comparison can be told. Everything random follows from `seed`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from usersim.storage.toml_config import Config

Name = Literal[
    "marginals",
    "text",
    "behaviour",
    "embeddings",
    "coverage",
    "diversity",
    "dynamics",
    "hazard",
    "disclosure",
    "entrainment",
    "grounding",
]
Interval = Literal["percentile", "bca"]
CLASSIFIERS: tuple[Name, ...] = ("text", "behaviour", "embeddings")
"""They take most of the time."""
SLOW: tuple[Name, ...] = (*CLASSIFIERS, "diversity")
"""Their time goes into every split; the others' into reading the conversations once."""
EVERY: tuple[Name, ...] = (
    "marginals",
    *CLASSIFIERS,
    "coverage",
    "diversity",
    "dynamics",
    "hazard",
    "disclosure",
    "entrainment",
    "grounding",
)
TRUSTED_N = 50
"""Conversations per side below which no verdict is given."""


class EvalConfig(Config):
    seed: int = 0
    bootstrap: int = Field(default=1000, ge=20)
    """Resamples of the clusters (people, tasks) behind every 95 % interval."""
    interval: Interval = "percentile"
    """bca: also corrected for how the spread grows with the figure."""
    floor_repeats: int = Field(default=200, ge=10)
    """Random splits of the human conversations behind the floor."""
    min_n: int = Field(default=TRUSTED_N, ge=10)
    """Fewer conversations per side are refused."""
    max_n: int = Field(default=1000, ge=10)
    """More per side are subsampled: the classifiers' time grows with n."""
    margins: dict[str, float] = Field(default_factory=dict)
    """δ of "equivalent" by figure (`FigureSpec.key`), in the figure's own unit, beyond the floor's median; in place of
    those of `eval.fidelity.margins`."""
    turn_cap: int | None = Field(default=None, ge=1)
    """User turns at which every conversation is cut; None: inferred from the simulated ones."""
    same_goals: bool = False
    """Compare only with human conversations whose goal every simulator was given."""
    language: str | None = None
    """Keep only conversations in this language (ISO 639-1, as `eval.fidelity.samples.language` tells it);
    None: keep all."""
    metrics: tuple[Name, ...] = Field(default=EVERY, min_length=1)
    """The gates are always there."""
    folds: int = Field(default=5, ge=2)
    neighbours: int = Field(default=5, ge=1)
    """k of coverage and density."""
    text_characters: int = Field(default=4000, ge=100)
    """The text classifier reads this much of a conversation's user turns."""
    examples: int = Field(default=3, ge=0)
    """Conversations of each side shown in the report, also nearest and farthest; 0 (`--no-text`) keeps all chat
    text out of it."""
    quiz: int = Field(default=10, ge=0)
    """Pairs of openings in the quiz; none without examples."""
    processes: int | None = Field(default=None, ge=1)
    """At once; None: one a core, where there is enough to do. Moves no number."""


QUICK = {"bootstrap": 300, "floor_repeats": 30}
"""What `--quick` changes: wider floors, the same figures."""
