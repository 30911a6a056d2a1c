"""Vector of all next-turn metrics, and its measurement on simulators."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from eval.next_turn.comparison import Measurement, against_null, claims, compare, with_readings
from eval.next_turn.metrics.acts import Acts
from eval.next_turn.metrics.coherence import Coherence, Contexts
from eval.next_turn.metrics.copying import Copying
from eval.next_turn.metrics.discriminator_features import Embedded, Family, Lexical, Representation
from eval.next_turn.metrics.discriminators import told_apart, told_apart_specs
from eval.next_turn.metrics.facts import FactSupport
from eval.next_turn.metrics.fluency import LanguageModelFluency, NgramFluency
from eval.next_turn.metrics.goal_conditions import GoalCondition
from eval.next_turn.metrics.language_model import LanguageModelScorer
from eval.next_turn.metrics.leaving import LeavingMetrics, tells_probability
from eval.next_turn.metrics.text_vectors import TextVectors
from eval.next_turn.metrics.values import (
    ClusterSums,
    MetricSpec,
    TurnMetric,
    Values,
    at_positions,
    estimate,
)
from eval.next_turn.prefixes import Prefix
from eval.next_turn.results import ReliabilityBin, SimulatorResult
from eval.next_turn.turns import SimulatedTurns, shared_prefixes
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, rng_for
from usersim.types import Conversation, Turn, UserProfile

Step = Callable[[str], None]
CHANCE = 0.5
NO_SKILL = 0.0
"""Skill of a simulator that has no more information than the baseline."""


@dataclass(frozen=True)
class Reference:
    """People that simulators are compared with, and the data that metrics are fitted on."""

    prefixes: tuple[Prefix, ...]
    """All prefixes, closing ones included."""
    conversations: tuple[Conversation, ...]
    """Conversations of the same people; classifiers are cross-fitted on them."""
    training: tuple[Conversation, ...] = ()
    """Training conversations of the simulators, for copying and for the n-gram model of fluency."""
    scorer: LanguageModelScorer | None = None
    families: tuple[Family, ...] = ("a",)
    seed: int = 0


@dataclass
class Vector:
    """All metrics over one reference. Contexts and classifiers are built once for all simulators."""

    reference: Reference
    undefined: dict[str, str] = field(default_factory=dict)
    """Metrics that are undefined for this reference, with the reason."""

    def __post_init__(self) -> None:
        reference = self.reference
        spoken = [prefix for prefix in reference.prefixes if prefix.text is not None]
        vectors = TextVectors()
        self.coherence = Coherence(reference.scorer, Contexts.of(spoken, reference.seed), vectors.embed)
        self.metrics: list[TurnMetric] = [
            self.coherence,
            LanguageModelFluency(self.coherence),
            self._ngrams(spoken),
            FactSupport(),
            Acts(self._people_of_voices(), seed=reference.seed),
            Copying(reference.training or None),
        ]
        self.representations: list[Representation] = [
            Lexical() if family == "a" else Embedded(vectors) for family in reference.families
        ]
        self._people_rows: dict[tuple[str, ...], list[object]] = {}

    def _ngrams(self, spoken: Sequence[Prefix]) -> TurnMetric:
        turns = [turn.text for c in self.reference.training for turn in c.turns if turn.role == "user"]
        return NgramFluency.fitted(turns) if turns else NgramFluency.cross_fitted(spoken, self.reference.seed)

    def _people_of_voices(self) -> Sequence[Conversation] | None:
        try:
            Acts(self.reference.conversations, seed=self.reference.seed)
        except DataError as error:
            self.undefined["acts.voice"] = str(error)
            return None
        return self.reference.conversations

    def measure(
        self,
        simulators: Sequence[SimulatedTurns],
        leaving: Mapping[GoalCondition, tuple[Sequence[Prefix], Sequence[SimulatedTurns]]],
        step: Step = lambda _: None,
    ) -> tuple[list[Prefix], list[SimulatorResult]]:
        """Measures all metrics of all simulators, at the prefixes at which all of them have a turn.

        Args:
            simulators: Simulators with turns at the reference's prefixes.

            leaving: By goal condition: the prefixes with that goal, and each simulator's turns at them.
            step: Called with the name of every stage that begins.

        Raises:
            DataError: The simulators share no prefix.
        """
        shared = shared_prefixes(self.reference.prefixes, simulators)
        if len({prefix.cluster for prefix in shared}) < 2:
            counts = ", ".join(f"{s.name} {len(s.turns)}" for s in simulators)
            raise DataError(f"the simulators share no prefix with a turn (number of turns: {counts})")
        texts = {s.name: [s.text(prefix) or "" for prefix in shared] for s in simulators}
        step("language-model scores")
        self.coherence.prepare(shared, {"people": [prefix.text or "" for prefix in shared], **texts})
        step("text metrics of people")
        people = self._values(lambda metric: metric.people(shared))
        results = []
        for simulator in simulators:
            step(f"metrics of {simulator.name}")
            own = self._values(partial(_values_of, shared, texts[simulator.name]))
            measurements: list[Measurement | tuple[str, str]] = [
                _or_reason(spec, compare(spec, own[spec.key], people[spec.key], shared, self.reference.seed))
                for metric in self.metrics
                for spec in metric.specs
            ]
            measurements += self._told_apart(shared, texts[simulator.name])
            for condition, (prefixes, turns) in leaving.items():
                one = next((s for s in turns if s.name == simulator.name), None)
                if one is not None:
                    measurements += self._leaving(prefixes, one, condition)
            results.append(self._result(simulator, shared, measurements))
        return shared, results

    def _values(self, measure: Callable[[TurnMetric], dict[str, Values]]) -> dict[str, Values]:
        return {key: values for metric in self.metrics for key, values in measure(metric).items()}

    def _told_apart(
        self, prefixes: Sequence[Prefix], texts: Sequence[str]
    ) -> list[Measurement | tuple[str, str]]:
        key = tuple(prefix.id for prefix in prefixes)
        if key not in self._people_rows:
            own = [prefix.text or "" for prefix in prefixes]
            self._people_rows[key] = [r.features(prefixes, own) for r in self.representations]
        measurements: list[Measurement | tuple[str, str]] = []
        clusters = [prefix.cluster for prefix in prefixes]
        for representation, people in zip(self.representations, self._people_rows[key], strict=True):
            choices = told_apart(
                representation.features(prefixes, texts),
                people,
                clusters,
                ridge=representation.ridge,
                seed=self.reference.seed,
            )
            values = choices.values(representation.family, prefixes)
            for spec in told_apart_specs(representation.family):
                one = against_null(spec, values[spec.key], CHANCE, prefixes, self.reference.seed)
                if isinstance(one, Measurement):
                    rng = rng_for(self.reference.seed, f"permutations {spec.key}")
                    p = choices.p(at_positions(prefixes, spec.positions), rng)
                    one = one.model_copy(update={"p": p, "p_holm": p})
                measurements.append(_or_reason(spec, one))
        return measurements

    def _leaving(
        self, prefixes: Sequence[Prefix], simulator: SimulatedTurns, condition: GoalCondition
    ) -> list[Measurement | tuple[str, str]]:
        metrics = LeavingMetrics(prefixes, seed=self.reference.seed, condition=condition)
        values, people = metrics.values(simulator), metrics.people()
        measurements: list[Measurement | tuple[str, str]] = []
        for spec in metrics.specs:
            if spec.key not in values:
                reason = "; ".join(f"{source} {why}" for source, why in metrics.undefined.items())
                measurements.append((spec.key, reason or "no known ends"))
            elif spec.key in people:
                one = compare(spec, values[spec.key], people[spec.key], metrics.prefixes, self.reference.seed)
                measurements.append(_or_reason(spec, one))
            else:
                one = against_null(spec, values[spec.key], NO_SKILL, metrics.prefixes, self.reference.seed)
                measurements.append(_or_reason(spec, one))
        return measurements

    def _result(
        self,
        simulator: SimulatedTurns,
        shared: Sequence[Prefix],
        results: Sequence[Measurement | tuple[str, str]],
    ) -> SimulatorResult:
        measurements = with_readings([m for m in results if isinstance(m, Measurement)])
        undefined = dict(one for one in results if not isinstance(one, Measurement))
        written = [prefix for prefix in self.reference.prefixes if prefix.text is not None]
        spoke = sum(simulator.text(prefix) is not None for prefix in written)
        calibration = LeavingMetrics(self.reference.prefixes, seed=self.reference.seed).calibration(simulator)
        return SimulatorResult(
            name=simulator.name,
            drawn_with=simulator.note,
            spoke=spoke,
            silent=len(written) - spoke,
            failed=dict(simulator.failed),
            measurements=tuple(measurements),
            claims=tuple(claims(measurements)),
            undefined={**self.undefined, **undefined},
            reliability=tuple(
                ReliabilityBin(predicted=b.predicted, observed=b.observed.value, prefixes=b.prefixes)
                for b in calibration.bins
            ),
            calibration_slope=calibration.slope,
            calibration_intercept=calibration.intercept,
            tells_probability=tells_probability(simulator),
        )

    def people(self, prefixes: Sequence[Prefix]) -> dict[str, Estimate]:
        """Returns people's values at these prefixes, by key."""
        clusters = [prefix.cluster for prefix in prefixes]
        shares = {spec.key: spec.is_share for metric in self.metrics for spec in metric.specs}
        return {
            key: estimate(ClusterSums.of(values, clusters), is_share=shares[key])
            for key, values in self._values(lambda metric: metric.people(prefixes)).items()
            if values.denominator_P.any()
        }


def _values_of(prefixes: Sequence[Prefix], texts: Sequence[str], metric: TurnMetric) -> dict[str, Values]:
    return metric.values(prefixes, texts)


def _or_reason(spec: MetricSpec, measurement: Measurement | str) -> Measurement | tuple[str, str]:
    return measurement if isinstance(measurement, Measurement) else (spec.key, measurement)


def conversations_of(prefixes: Sequence[Prefix]) -> list[Conversation]:
    """Returns the conversations of the prefixes, each up to its last prefix."""
    last: dict[str, Prefix] = {}
    for prefix in prefixes:
        longest = last.get(prefix.conversation)
        if longest is None or longest.position < prefix.position:
            last[prefix.conversation] = prefix
    return [
        Conversation(
            id=prefix.conversation,
            origin="human",
            source=prefix.source,
            turns=prefix.history
            if prefix.text is None
            else (*prefix.history, Turn(role="user", text=prefix.text)),
            profile=UserProfile(goal=prefix.goal),
            ended_by="user" if prefix.has_left else "unknown",
            user=prefix.cluster,
        )
        for prefix in last.values()
    ]


class StageClock:
    """Clock of the minutes spent in each stage."""

    def __init__(self, step: Step) -> None:
        self._step, self._began, self._name = step, time.monotonic(), ""
        self.minutes: dict[str, float] = {}

    def __call__(self, name: str) -> None:
        now = time.monotonic()
        if self._name:
            self.minutes[self._name] = self.minutes.get(self._name, 0.0) + (now - self._began) / 60
        self._name, self._began = name, now
        if name:
            self._step(name)
