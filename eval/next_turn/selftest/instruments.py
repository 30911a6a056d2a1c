"""Metrics under test (`Instruments`), and the protocols of discriminators and leaving metrics that they contain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eval.next_turn.metrics.values import (
    ClusterSums,
    MetricSpec,
    TurnMetric,
    Values,
)
from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.planted_table import TABLE
from eval.next_turn.selftest.selftest_record import (
    SelfTestConfig,
)
from eval.next_turn.turns import SimulatedTurns
from usersim.stats.estimates import Estimate

Masks = NDArray[np.bool_]
Progress = Callable[[str], None]
CHANCE = 0.5
"""Accuracy of a discriminator's forced choice on people."""


class ForcedChoice(Protocol):
    """Forced choices of a fitted discriminator between a simulator's and a person's turn, one per prefix."""

    def values(self, family: Any, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        """Returns values by key: 1 if it chose the simulator's turn, 1/2 at a tie, 0 if it chose the person's."""
        ...

    def p(self, mask_P: Masks, rng: np.random.Generator, permutations: int = ...) -> float:
        """Two-sided p of "accuracy is at chance" at the prefixes of the mask."""
        ...


class UnpairedTest(Protocol):
    """Discriminator between two sets of turns at different prefixes."""

    def p(self, is_first_N: Masks, *, seed: int = ..., permutations: int = ...) -> float:
        """Two-sided p of "both sets are of the same people"; a set has whole clusters."""
        ...


@dataclass(frozen=True)
class DiscriminatorFamily:
    """Family of discriminators."""

    representation: Any
    """Feature map with `family`, `ridge` and `features(prefixes, texts)`."""
    specs: Sequence[MetricSpec]
    told_apart: Callable[..., ForcedChoice]
    """Paired fit: (simulated rows, people's rows, clusters, ridge=, seed=)."""
    unpaired: Callable[..., UnpairedTest]
    """Unpaired fit: (rows, clusters, ridge=, seed=)."""


@dataclass(frozen=True)
class LeavingNumber:
    """One leaving metric of one simulator."""

    value: Estimate
    p: float
    """Two-sided p: of "as people" for a rate, of "0" for a gain or a skill."""
    people: float | None = None
    """People's value; None if people have none."""
    sums: ClusterSums | None = None
    """Cluster sums of the number; None if it is not a ratio of sums."""
    is_share: bool = False


class LeavingMeasure(Protocol):
    """Leaving metrics of one simulator at prefixes, closing ones included."""

    @property
    def specs(self) -> Sequence[MetricSpec]: ...

    def measure(
        self, prefixes: Sequence[Prefix], turns: SimulatedTurns, seed: int
    ) -> Mapping[str, LeavingNumber]:
        """Returns the numbers by key; undefined ones are left out."""
        ...


@dataclass(frozen=True)
class Instruments:
    """Metrics under test."""

    metrics: Sequence[TurnMetric]
    discriminators: Sequence[DiscriminatorFamily] = ()
    leaving: LeavingMeasure | None = None
    prepare: Callable[[Sequence[Prefix], Mapping[str, Sequence[str]]], None] | None = None
    """Called before `values` with the texts of all speakers at the same prefixes, so that contexts are read once."""
    notes: tuple[str, ...] = ()

    @property
    def specs(self) -> list[MetricSpec]:
        metric_specs = [spec for metric in self.metrics for spec in metric.specs]
        discriminator_specs = [spec for one in self.discriminators for spec in one.specs]
        return metric_specs + discriminator_specs + list(self.leaving.specs if self.leaving else ())


def select_values(
    metrics: Sequence[TurnMetric], measure: Callable[[TurnMetric], dict[str, Values]]
) -> dict[str, Values]:
    """Values of all metrics, by the keys for which they are needed."""
    values_by_key: dict[str, Values] = {}
    for metric in metrics:
        keys = {spec.key for spec in metric.specs}
        values_by_key |= {key: values for key, values in measure(metric).items() if key in keys}
    return values_by_key


class _Part(TurnMetric):
    """Metric restricted to some of its keys."""

    def __init__(self, metric: TurnMetric, specs: Sequence[MetricSpec]) -> None:
        self._metric, self._specs = metric, specs

    @property
    def specs(self) -> Sequence[MetricSpec]:
        return self._specs

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        return self._metric.values(prefixes, texts)

    def people(self, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        return self._metric.people(prefixes)


def expected_only(instruments: Instruments, config: SelfTestConfig) -> Instruments:
    if not config.meant_only:
        return instruments
    users = [user for user in TABLE if config.users is None or user.name in config.users]
    keys = {expected.key for user in users for expected in user.expectations}

    def specs_meant(specs: Sequence[MetricSpec]) -> list[MetricSpec]:
        return [spec for spec in specs if spec.key in keys]

    return Instruments(
        [
            _Part(metric, specs_meant(metric.specs))
            for metric in instruments.metrics
            if specs_meant(metric.specs)
        ],
        [one for one in instruments.discriminators if specs_meant(one.specs)],
        instruments.leaving,
        instruments.prepare,
        instruments.notes,
    )
