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
    """Conversations, the sources in equal parts as far as they reach."""
    permutations: int = Field(default=PERMUTATIONS, ge=99)
    splits: int = Field(default=200, ge=1)
    """Random splits of people into halves, and of people into pairs."""
    resamples: int = Field(default=2_000, ge=1)
    """Behind the coverage of the intervals."""
    users: tuple[str, ...] | None = None
    """Planted users that are made; None: all of the table."""
    meant_only: bool = False
    """Only the metrics meant for one of these users."""
    language: str | None = "en"


class Cell(Record):
    """A planted user by a metric."""

    key: str
    value: Estimate
    people: float | None
    """At the same prefixes; for told_apart the value that means "not told apart", for a gain 0."""
    difference: Estimate
    error: float
    """Standard error of the difference."""
    z: float | None
    """Difference over its standard error; None where it does not vary."""
    p: float
    p_holm: float
    """Adjusted for all metrics of this user."""
    p_unpaired: float | None = None
    """The user at one half of the clusters against people at the other: half the n, and no pairs."""
    p_unpaired_holm: float | None = None
    is_meant: bool
    is_caught: bool
    """Differs with a Holm-adjusted p below `ALPHA`; where meant, in the direction expected."""
    needed_n: int | None = None
    """Conversations at which the effect seen here would be caught with 80 % power, where it was not."""


class UserResult(Record):
    """A planted user and what saw it."""

    name: str
    label: str
    made: str
    left_out: str | None = None
    """Why it could not be made, or not be judged."""
    conversations: int = 0
    turns: int = 0
    """Prefixes at which it and the person wrote."""
    changed: float = 0.0
    """Share of these turns that are not the person's."""
    failed: dict[str, int] = Field(default_factory=dict)
    """Prefixes without a turn, by reason: left out of both sides."""
    is_caught: bool | None = None
    caught_by: tuple[str, ...] = ()
    """Metrics meant for it that did."""
    both_scorers: bool | None = None
    """Both unrelated scorers of one of these numbers caught it; None where no number meant for it has two."""
    needed_n: int | None = None
    cells: tuple[Cell, ...] = ()
    undefined: dict[str, str] = Field(default_factory=dict)
    """Metrics that it has no value of, with the reason."""


class PeopleResult(Record):
    """People against people: how often any metric is below `ALPHA` after Holm's adjustment."""

    form: Literal["halves", "pairs"]
    """halves: two halves of the people, unpaired; pairs: different people at the same source and turn."""
    repeats: int
    metrics: int
    share: float
    """Share of the repeats in which any metric was."""
    by_metric: dict[str, float]
    """The same for each metric, where it was."""


class SelfTestReport(Record):
    """The report; flat keys first."""

    title: str = "Self-test of the next-turn metrics"
    planted_caught: dict[str, bool]
    planted_needed_n: dict[str, int | None]
    """Conversations needed, for planted users not caught."""
    planted_left_out: dict[str, str]
    human_false_positives: float | None
    human_false_positives_paired: float | None
    coverage: dict[str, float]
    """Share of resamples whose interval holds the value on the full set, by metric."""
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
    """Conversations that could not be used, by reason."""
    people: tuple[PeopleResult, ...]
    users: tuple[UserResult, ...]
    specs: tuple[MetricSpec, ...]
    notes: tuple[str, ...]
    config: SelfTestConfig
    versions: dict[str, str]
    seconds: float
    command: str = ""
