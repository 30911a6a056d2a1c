"""Next-turn metrics as `Instruments` of the self-test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from eval.next_turn.metric_vector import Reference, Vector, conversations_of
from eval.next_turn.metrics.discriminator_features import Family
from eval.next_turn.metrics.discriminators import Unpaired, told_apart, told_apart_specs
from eval.next_turn.metrics.language_model import LanguageModelScorer
from eval.next_turn.metrics.leaving import LeavingMetrics, leaving_tests
from eval.next_turn.metrics.values import (
    MetricSpec,
    estimate,
    p_paired,
)
from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.instruments import DiscriminatorFamily, Instruments, LeavingNumber
from eval.next_turn.selftest.selftest_record import SelfTestConfig
from eval.next_turn.selftest.selftest_sample import SelfTestSample
from eval.next_turn.turns import SimulatedTurns
from usersim.stats.estimates import rng_for
from usersim.weights.default_model import BASE_NAME


class LeavingNumbers:
    """Leaving metrics in the form that the self-test reads."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._metrics: dict[tuple[tuple[str, bool], ...], LeavingMetrics] = {}

    @property
    def specs(self) -> Sequence[MetricSpec]:
        return LeavingMetrics([], seed=self.seed).specs

    def measure(
        self, prefixes: Sequence[Prefix], turns: SimulatedTurns, seed: int
    ) -> Mapping[str, LeavingNumber]:
        """Returns the numbers by key; undefined ones are left out."""
        key = tuple((prefix.id, prefix.has_left) for prefix in prefixes)
        if key not in self._metrics:
            self._metrics[key] = LeavingMetrics(prefixes, seed=seed)
        metrics = self._metrics[key]
        people = {name: metrics.sums(values) for name, values in metrics.people().items()}
        shares = {spec.key: spec.is_share for spec in metrics.specs}
        numbers = {}
        for name, values in metrics.values(turns).items():
            sums = metrics.sums(values)
            if sums.n_clusters < 2:
                continue
            rng = rng_for(seed, f"leaving {turns.name} {name}")
            theirs = people.get(name)
            p = p_paired(sums, theirs, rng) if theirs else min(1.0, 2 * leaving_tests(sums, rng).above_zero)
            numbers[name] = LeavingNumber(
                value=estimate(sums, is_share=shares[name]),
                p=p,
                people=theirs.ratio if theirs else None,
                sums=sums,
                is_share=shares[name],
            )
        return numbers


def instruments(
    people_sample: SelfTestSample,
    config: SelfTestConfig,
    *,
    scorer: str | None = BASE_NAME,
    journal: Path | None = None,
    families: tuple[Family, ...] = ("a", "b"),
) -> Instruments:
    """Returns all metrics, for the self-test on these conversations.

    Args:
        people_sample: Conversations, and the material of planted users.
        config: Settings of the self-test.
        scorer: Language model of the contrasts; None skips its metrics.

        journal: Directory of the cached language-model scores; None: in memory.
        families: Discriminators.
    """
    model = LanguageModelScorer.from_pretrained(scorer, journal=journal) if scorer else None
    vector = Vector(
        Reference(
            people_sample.prefixes,
            tuple(conversations_of(people_sample.prefixes)),
            tuple(people_sample.material.training),
            model,
            families,
            config.seed,
        )
    )
    return Instruments(
        metrics=vector.metrics,
        discriminators=[
            DiscriminatorFamily(one, told_apart_specs(one.family), told_apart, Unpaired)
            for one in vector.representations
        ],
        leaving=LeavingNumbers(config.seed),
        prepare=partial(_prepare, vector),
        notes=tuple(f"{key} not measured: {reason}." for key, reason in vector.undefined.items()),
    )


def _prepare(vector: Vector, prefixes: Sequence[Prefix], texts: Mapping[str, Sequence[str]]) -> None:
    vector.coherence.prepare(prefixes, texts)
