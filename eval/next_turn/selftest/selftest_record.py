"""Records of the self-test: planted users against the metrics meant for them, people against people, intervals."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eval.next_turn.metrics.values import PERMUTATIONS, MetricSpec
from usersim.stats.estimates import Estimate
from usersim.types import Record


class SelfTestConfig(Record):
    """Settings of a self-test."""

    seed: int = 0
    n: int = Field(default=200, ge=2)
    """Conversations, with equally many per source as far as available."""
    permutations: int = Field(default=PERMUTATIONS, ge=99)
    splits: int = Field(default=200, ge=1)
    """Number of random splits of people into halves, and of people into pairs."""
    resamples: int = Field(default=2_000, ge=1)
    """Number of resamples for the coverage of intervals."""
    users: tuple[str, ...] | None = None
    """Planted users; None: all of the table."""
    meant_only: bool = False
    """Only the metrics meant for one of these users."""
    language: str | None = "en"


class PlantedCell(Record):
    """Result of one metric on one planted user."""

    key: str
    value: Estimate
    people: float | None
    """Value at the same prefixes; chance for told_apart, 0 for a gain."""
    difference: Estimate
    error: float
    """Standard error of the difference."""
    z: float | None
    """Difference divided by its standard error; None if it does not vary."""
    p: float
    p_holm: float
    """p, adjusted over all metrics of this user."""
    p_unpaired: float | None = None
    """p of the user at one half of the clusters against people at the other: half the n, unpaired."""
    p_unpaired_holm: float | None = None
    is_meant: bool
    is_caught: bool
    """Differs with a Holm-adjusted p below `ALPHA`; for an expected metric, in the expected direction."""
    needed_n: int | None = None
    """Conversations at which the observed effect would be detected with 80 % power, if it was not."""


class UserResult(Record):
    """Result of one planted user, with the metrics that detected it."""

    name: str
    label: str
    made: str
    left_out: str | None = None
    """Reason why it could not be built or judged."""
    conversations: int = 0
    turns: int = 0
    """Number of prefixes at which it and the person wrote a turn."""
    changed: float = 0.0
    """Share of these turns that differ from the person's."""
    failed: dict[str, int] = Field(default_factory=dict)
    """Number of prefixes without a turn, by reason; left out of both sides."""
    is_caught: bool | None = None
    caught_by: tuple[str, ...] = ()
    """Metrics meant for it that detected it."""
    both_scorers: bool | None = None
    """Both unrelated scorers of one of these numbers detected it; None if no number meant for it has two."""
    needed_n: int | None = None
    cells: tuple[PlantedCell, ...] = ()
    undefined: dict[str, str] = Field(default_factory=dict)
    """Metrics that are undefined for it, with the reason."""


class PeopleResult(Record):
    """People against people: how often a metric is below `ALPHA` after Holm's adjustment."""

    form: Literal["halves", "pairs"]
    """halves: two halves of the people, unpaired; pairs: different people at the same source and turn."""
    repeats: int
    metrics: int
    share: float
    """Share of the repeats in which any metric rejected."""
    by_metric: dict[str, float]
    """The same share for each metric, where it rejected."""


class SelfTestReport(Record):
    """Self-test report; flat keys first."""

    title: str = "Self-test of the next-turn metrics"
    planted_caught: dict[str, bool]
    planted_needed_n: dict[str, int | None]
    """Conversations needed, for planted users that were not caught."""
    planted_left_out: dict[str, str]
    human_false_positives: float | None
    human_false_positives_paired: float | None
    coverage: dict[str, float]
    """Share of resamples whose interval contains the value on the full set, by metric."""
    coverage_outside: tuple[str, ...]
    """Metrics whose coverage is not between 92 and 98 %."""
    coverage_undefined: dict[str, str]
    conversations: int
    clusters: int
    turns: int
    with_goal: int
    with_known_end: int
    sources: dict[str, int]
    excluded: dict[str, int]
    """Number of unusable conversations by reason."""
    people: tuple[PeopleResult, ...]
    users: tuple[UserResult, ...]
    specs: tuple[MetricSpec, ...]
    notes: tuple[str, ...]
    config: SelfTestConfig
    versions: dict[str, str]
    seconds: float
    command: str = ""
