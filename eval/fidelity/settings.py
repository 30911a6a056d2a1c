"""Settings of a comparison. All randomness follows from `seed`."""

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
"""Families that take most of the time."""
SLOW: tuple[Name, ...] = (*CLASSIFIERS, "diversity")
"""Families whose time grows with the number of splits; the others spend theirs on reading the conversations once."""
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
    """bca: also corrects for a spread that grows with the metric."""
    floor_repeats: int = Field(default=200, ge=10)
    """Random splits of the human conversations for the human baseline."""
    min_n: int = Field(default=TRUSTED_N, ge=10)
    """Fewest conversations per side; fewer are an error."""
    max_n: int = Field(default=1000, ge=10)
    """Most conversations per side; more are subsampled, because the classifiers' time grows with n."""
    margins: dict[str, float] = Field(default_factory=dict)
    """Equivalence margin δ by metric (`FigureSpec.key`), in the metric's unit, beyond the baseline's median; overrides
    `eval.fidelity.margins`."""
    turn_cap: int | None = Field(default=None, ge=1)
    """User turns at which every conversation is cut; None: inferred from the simulated ones."""
    same_goals: bool = False
    """Keep only human conversations whose goal every simulator had."""
    language: str | None = None
    """Keep only conversations in this language (ISO 639-1, detected by `eval.fidelity.samples.language`); None: keep
    all."""
    metrics: tuple[Name, ...] = Field(default=EVERY, min_length=1)
    """Metric families to measure. The gates are always included."""
    folds: int = Field(default=5, ge=2)
    neighbours: int = Field(default=5, ge=1)
    """k of coverage and density."""
    text_characters: int = Field(default=4000, ge=100)
    """Characters of a conversation's user turns that the text classifier reads."""
    examples: int = Field(default=3, ge=0)
    """Conversations of each side shown in the report, and nearest and farthest ones; 0 (`--no-text`) leaves all chat
    text out."""
    quiz: int = Field(default=10, ge=0)
    """Pairs of openings in the quiz; none where `examples` is 0."""
    processes: int | None = Field(default=None, ge=1)
    """Parallel processes; None: one per core for large work. Results do not depend on it."""


QUICK = {"bootstrap": 300, "floor_repeats": 30}
"""Settings of `--quick`: a wider human baseline and wider intervals, the same metrics."""
