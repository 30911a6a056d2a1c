"""Self-test of the next-turn metrics: planted users must be detected by the metric meant for them, people by none.

The metrics are passed in (`Instruments`); this module does not depend on their implementation. The table of metrics
meant for each planted user was fixed beforehand: `eval.next_turn.selftest.planted_table`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm  # type: ignore[import-untyped]

from eval.fidelity.report_record import versions
from eval.fidelity.verdicts import holm
from eval.next_turn.metrics.values import (
    ClusterSums,
    MetricSpec,
    TurnMetric,
    Values,
    at_positions,
    difference,
    estimate,
    p_paired,
    p_unpaired,
    standard_error,
)
from eval.next_turn.prefixes import Prefix, prefixes_of, stratified, usable
from eval.next_turn.selftest.people_against_people import cluster_counts, coverage, halves, pairs, split_masks
from eval.next_turn.selftest.planted_material import Material, PlantedTurns
from eval.next_turn.selftest.planted_table import ALPHA, CLOCK_BOUND, TABLE, Direction, PlantedUserSpec, row
from eval.next_turn.selftest.planted_users import plant
from eval.next_turn.selftest.selftest_record import (
    PeopleResult,
    PlantedCell,
    SelfTestConfig,
    SelfTestReport,
    UserResult,
)
from eval.next_turn.turns import SimulatedTurns, shared_prefixes
from usersim.errors import DataError
from usersim.stats.estimates import Z95, Estimate, rng_for
from usersim.types import Conversation

Masks = NDArray[np.bool_]
Progress = Callable[[str], None]
FEW, FEW_CLUSTERS = 50, 20
POWER = 0.8
COVERED = (0.92, 0.98)
CHANCE = 0.5
"""Accuracy of a discriminator's forced choice on people."""
QUICK = SelfTestConfig(
    n=60,
    users=(
        "gibberish_words",
        "gibberish_characters",
        "shuffled_words",
        "deaf",
        "replay",
        "goal_read_out",
        "thanks_added",
        "near_copies",
        "never_leaves",
    ),
    meant_only=True,
    splits=100,
    resamples=1_000,
)
"""Settings of --quick: 60 conversations, and the planted users that so few can show."""


class ForcedChoice(Protocol):
    """Forced choices of a fitted discriminator between a simulator's and a person's turn, one per prefix."""

    def values(self, family: Any, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        """Returns values by key: 1 if it chose the simulator's turn, 1/2 at a tie, 0 if it chose the person's."""
        ...

    def p(self, mask_P: Masks, rng: np.random.Generator, permutations: int = ...) -> float:
        """Two-sided p of "accuracy is at chance" at the prefixes of the mask."""
        ...


class Deals(Protocol):
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
    unpaired: Callable[..., Deals]
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


@dataclass(frozen=True)
class SelfTestSample:
    """Conversations of a self-test."""

    prefixes: tuple[Prefix, ...]
    """Prefixes of the measured conversations."""
    material: Material
    """All usable conversations, the material of planted users."""
    excluded: Counter[str]
    notes: tuple[str, ...]


def sample(
    conversations: Sequence[Conversation],
    config: SelfTestConfig,
    *,
    training: Sequence[Conversation] = (),
    prompted: Any = None,
) -> SelfTestSample:
    """Samples usable conversations by strata; returns them with notes for the report.

    Raises:
        DataError: Fewer than two people.
    """
    by_id = {conversation.id: conversation for conversation in reversed(conversations)}
    distinct = [conversation for conversation in conversations if by_id[conversation.id] is conversation]
    measurable, excluded = usable(distinct, config.language)
    if len(distinct) < len(conversations):
        excluded["a second one with the same id"] = len(conversations) - len(distinct)
    people_sample = stratified(measurable, config.n, config.seed)
    prefixes = tuple(prefix for c in people_sample for prefix in prefixes_of(c))
    people = len({prefix.cluster for prefix in prefixes})
    if people < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in excluded.items()) or "none was left out"
        raise DataError(f"a self-test needs conversations of several people: {people} usable ({reasons})")
    goals = sum(c.profile.goal is not None for c in people_sample)
    ends = sum(c.ended_by == "user" and c.turns[-1].role == "assistant" for c in people_sample)
    notes = []
    if len(people_sample) < config.n:
        notes.append(f"{len(people_sample)} conversations could be used where {config.n} were wanted.")
    if len(people_sample) < FEW:
        notes.append(f"Fewer than {FEW} conversations: most planted users cannot be caught with so few.")
    if people < FEW_CLUSTERS:
        notes.append(f"Only {people} different people: intervals over so few are too narrow.")
    notes += [f"{count} conversations left out: {reason}." for reason, count in sorted(excluded.items())]
    if goals < len(people_sample):
        notes.append(
            f"{len(people_sample) - goals} of {len(people_sample)} conversations have no goal: "
            "numbers on goals leave them out."
        )
    if ends < len(people_sample):
        notes.append(
            f"Of {len(people_sample) - ends} of {len(people_sample)} conversations it is not known who ended them."
        )
    if not training:
        notes.append("No training conversations were given: copying from training could not be told.")
    material = Material(tuple(p for c in measurable for p in prefixes_of(c)), tuple(training), prompted)
    return SelfTestSample(prefixes, material, excluded, tuple(notes))


def self_test(
    people_sample: SelfTestSample,
    instruments: Instruments,
    config: SelfTestConfig,
    progress: Progress | None = None,
) -> SelfTestReport:
    """Measures all planted users and people with all metrics."""
    start, step = time.monotonic(), progress or (lambda _: None)
    run = _Run(people_sample, _only_meant(instruments, config), config)
    users = [user for user in TABLE if config.users is None or user.name in config.users]
    planted, results = dict[str, PlantedTurns](), dict[str, UserResult]()
    for user in users:
        try:
            planted[user.name] = plant(user.name, people_sample.prefixes, people_sample.material, config.seed)
        except DataError as error:
            results[user.name] = _result(user, left_out=str(error))
    run.prepare([one for user in users if (one := planted.get(user.name)) and user.changes == "text"], step)
    for user in users:
        if user.name in planted:
            step(user.label)
            results[user.name] = run.user(user, planted[user.name])
    step("people against people")
    people = run.people()
    step("coverage of intervals")
    covered, uncovered = run.coverage(planted)
    rows = [results[user.name] for user in users]
    judged = {row.name: row for row in rows if row.is_caught is not None}
    by_form = {result.form: result.share for result in people}
    conversations = {p.conversation: p for p in people_sample.prefixes}
    return SelfTestReport(
        planted_caught={name: bool(row.is_caught) for name, row in judged.items()},
        planted_needed_n={name: row.needed_n for name, row in judged.items() if not row.is_caught},
        planted_left_out={row.name: row.left_out or "" for row in rows if row.is_caught is None},
        human_false_positives=by_form.get("halves"),
        human_false_positives_paired=by_form.get("pairs"),
        coverage=covered,
        coverage_outside=tuple(
            key for key, share in covered.items() if not COVERED[0] <= share <= COVERED[1]
        ),
        coverage_undefined=uncovered,
        conversations=len(conversations),
        clusters=len({p.cluster for p in people_sample.prefixes}),
        turns=len(run.texts),
        with_goal=sum(p.goal is not None for p in conversations.values()),
        with_known_end=sum(p.has_left for p in people_sample.prefixes),
        sources=dict(Counter(p.source for p in conversations.values())),
        excluded=dict(people_sample.excluded),
        people=tuple(people),
        users=tuple(rows),
        specs=tuple(run.instruments.specs),
        notes=(*people_sample.notes, *instruments.notes),
        config=config,
        versions=versions(),
        seconds=time.monotonic() - start,
    )


def one_simulator(
    people_sample: SelfTestSample, instruments: Instruments, config: SelfTestConfig
) -> tuple[UserResult, ...]:
    """Measures people and one simulator with all metrics, and times it; the cost of a report on a simulator.

    The deaf user stands in for the simulator's text, the user that never leaves for its P(end).
    """
    run, results = _Run(people_sample, instruments, config), []
    for name in ("deaf", "never_leaves"):
        planted = plant(name, people_sample.prefixes, people_sample.material, config.seed)
        if row(name).changes == "text":
            run.prepare([planted], lambda _: None)
        results.append(run.user(row(name), planted))
    return tuple(results)


@dataclass
class _Run:
    """Run of the self-test. People's values are computed once for all planted users with the same prefixes."""

    people_sample: SelfTestSample
    instruments: Instruments
    config: SelfTestConfig
    _values: dict[tuple[str, ...], dict[str, Values]] = field(default_factory=dict)
    _rows: dict[tuple[str, tuple[str, ...]], Any] = field(default_factory=dict)
    _left: dict[str, Mapping[str, LeavingNumber]] = field(default_factory=dict)

    @property
    def texts(self) -> list[Prefix]:
        """Prefixes at which the person wrote a turn."""
        return [p for p in self.people_sample.prefixes if p.text is not None]

    def prepare(self, planted: Sequence[PlantedTurns], step: Progress) -> None:
        if self.instruments.prepare is None:
            return
        groups: dict[tuple[str, ...], tuple[list[Prefix], dict[str, Sequence[str]]]] = {}
        for one in planted:
            shared = shared_prefixes(one.prefixes, [one.turns])
            _, speakers = groups.setdefault(tuple(p.id for p in shared), (shared, {}))
            speakers[one.name] = _texts(shared, one.turns)
        everyone = self.texts
        groups.setdefault(tuple(p.id for p in everyone), (everyone, {}))
        for shared, speakers in groups.values():
            step("scores of all speakers")
            self.instruments.prepare(shared, {"people": [p.text or "" for p in shared], **speakers})

    def user(self, user: PlantedUserSpec, planted: PlantedTurns) -> UserResult:
        """Returns the cells of a planted user, and if a metric meant for it detected it."""
        undefined: dict[str, str] = {}
        shared = shared_prefixes(planted.prefixes, [planted.turns])
        if user.changes == "leaving":
            cells = self._leaving_cells(user, planted, undefined)
        elif len({p.cluster for p in shared}) < 2:
            return _result(
                user, left_out=f"it wrote at prefixes of {len({p.cluster for p in shared})} people"
            )
        else:
            cells = self._text_cells(user, planted, shared, undefined)
        cells = _adjusted(cells)
        directions = {expected.key: expected.direction for expected in user.expectations}
        cells = [_judged(cell, directions.get(cell.key), self._scale(cell), len(cells)) for cell in cells]
        judged = [cell for cell in cells if cell.is_meant]
        caught = [cell for cell in judged if cell.is_caught]
        is_caught = None
        if judged:
            is_caught = bool(caught) if user.needs == "any" else len(caught) == len(judged)
        needed = [cell.needed_n for cell in judged if cell.needed_n is not None]
        of_all = min if user.needs == "any" else max
        missing = ", ".join(sorted(key for key in directions if key not in {cell.key for cell in cells}))
        return UserResult(
            name=user.name,
            label=user.label,
            made=user.description,
            left_out=None if judged else f"no metric meant for it could be measured ({missing})",
            conversations=len({p.conversation for p in (shared or planted.prefixes)}),
            turns=len(shared),
            changed=planted.changed,
            failed=dict(planted.turns.failed),
            is_caught=is_caught,
            caught_by=tuple(cell.key for cell in caught),
            both_scorers=_both_scorers(judged, {s.key: s for s in self.instruments.specs}),
            needed_n=None if is_caught or not needed else of_all(needed),
            cells=tuple(cells),
            undefined=undefined,
        )

    def people(self) -> list[PeopleResult]:
        """Returns the false positives among halves and among pairs of people."""
        prefixes = self.texts
        clusters = [p.cluster for p in prefixes]
        values = {key: v for key, v in self._of_people(prefixes).items() if v.denominator_P.any()}
        names = sorted(set(clusters))
        source_of = {p.cluster: p.source for p in prefixes}
        sums = {key: ClusterSums.of(v, clusters) for key, v in values.items()}
        if (leaving := self._leaving_of_people()) is not None:
            sums["leaving.rate"] = leaving
        common: dict[str, Any] = {
            "splits": self.config.splits,
            "permutations": self.config.permutations,
            "seed": self.config.seed,
        }
        sources = [source_of[name] for name in names]
        results = []
        if sums:
            results.append(halves(sums, sources, others=self._discriminator_tests(prefixes, names), **common))
        if values and any(count > 1 for count in Counter(sources).values()):
            positions = [p.position for p in prefixes]
            of_prefix = [source_of[name] for name in clusters]
            results.append(pairs(values, clusters, of_prefix, positions, **common))
        return results

    def coverage(self, planted: Mapping[str, PlantedTurns]) -> tuple[dict[str, float], dict[str, str]]:
        """Returns coverage by metric, and reasons where it is missing. Leaving metrics use the first suitable clock."""
        prefixes = self.texts
        clusters = [p.cluster for p in prefixes]
        shares = {spec.key: spec.is_share for spec in self.instruments.specs}
        sums = {
            key: (ClusterSums.of(v, clusters), shares[key]) for key, v in self._of_people(prefixes).items()
        }
        if (leaving := self._leaving_of_people()) is not None:
            sums["leaving.rate"] = (leaving, True)
        if self.instruments.leaving is not None:
            for user in TABLE:
                # The rate is people's own; one that never leaves has the same P(end) everywhere.
                if user.changes == "leaving" and user.name in planted and user.name != "never_leaves":
                    one = planted[user.name]
                    for key, number in self._measure_leaving(one).items():
                        if number.sums is not None and key not in sums:
                            sums[key] = (number.sums, number.is_share)
        covered, undefined = dict[str, float](), dict[str, str]()
        counts: dict[int, Any] = {}
        for key, (cluster_sums, is_share) in sums.items():
            size = len(cluster_sums.numerator_C)
            if size not in counts:
                counts[size] = cluster_counts(size, self.config.resamples, self.config.seed)
            try:
                covered[key] = coverage(cluster_sums, counts[size], is_share=is_share)
            except ValueError as error:
                undefined[key] = str(error)
        return covered, undefined

    def _of_people(self, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        key = tuple(p.id for p in prefixes)
        if key not in self._values:
            self._values[key] = _values_by_key(
                self.instruments.metrics, lambda metric: metric.people(prefixes)
            )
        return self._values[key]

    def _of(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        return _values_by_key(self.instruments.metrics, lambda metric: metric.values(prefixes, texts))

    def _text_cells(
        self,
        user: PlantedUserSpec,
        planted: PlantedTurns,
        shared: Sequence[Prefix],
        undefined: dict[str, str],
    ) -> list[PlantedCell]:
        config, cells = self.config, list[PlantedCell]()
        texts, clusters = _texts(shared, planted.turns), [p.cluster for p in shared]
        is_first_C, is_first_P = self._half(shared)
        specs = {spec.key: spec for spec in self.instruments.specs}
        own, theirs = self._of(shared, texts), self._of_people(shared)
        for key, own_values in own.items():
            people, both_P = theirs[key], (own_values.denominator_P != 0) & (theirs[key].denominator_P != 0)
            if not specs[key].is_ratio:
                own_values, people = own_values.at(both_P), people.at(both_P)
            if not both_P.any():
                undefined[key] = "defined at none of these prefixes"
                continue
            one, two = ClusterSums.of(own_values, clusters), ClusterSums.of(people, clusters)
            rng = rng_for(config.seed, f"{user.name} {key}")
            half_one, half_two = _part(one, is_first_C), _part(two, ~is_first_C)
            is_unpaired = bool(half_one.denominator_C.any() and half_two.denominator_C.any())
            cells.append(
                _cell(
                    key,
                    estimate(one, is_share=specs[key].is_share),
                    two.ratio,
                    difference(one, two),
                    standard_error(one.residuals_C - two.residuals_C, min(one.n_clusters, two.n_clusters)),
                    p_paired(one, two, rng, config.permutations),
                    p_unpaired(half_one, half_two, rng, config.permutations) if is_unpaired else None,
                )
            )
        for discriminator in self.instruments.discriminators:
            cells += self._told_apart(user, discriminator, shared, texts, is_first_P, undefined)
        return cells

    def _told_apart(
        self,
        user: PlantedUserSpec,
        discriminator: DiscriminatorFamily,
        shared: Sequence[Prefix],
        texts: Sequence[str],
        is_first_P: Masks,
        undefined: dict[str, str],
    ) -> list[PlantedCell]:
        config, representation = self.config, discriminator.representation
        clusters = [p.cluster for p in shared]
        rows = representation.features(shared, texts)
        choices = discriminator.told_apart(
            rows,
            self._people_rows(discriminator, shared),
            clusters,
            ridge=representation.ridge,
            seed=config.seed,
        )
        values = choices.values(representation.family, shared)
        mixed = [
            text if first else (p.text or "")
            for p, text, first in zip(shared, texts, is_first_P, strict=True)
        ]
        deals = discriminator.unpaired(
            representation.features(shared, mixed), clusters, ridge=representation.ridge, seed=config.seed
        )
        p_halves = deals.p(is_first_P, seed=config.seed, permutations=config.permutations)
        cells = []
        for spec in discriminator.specs:
            own = values.get(spec.key)
            if own is None or not own.denominator_P.any():
                undefined[spec.key] = "defined at none of these prefixes"
                continue
            mask_P = at_positions(shared, spec.positions) & (own.denominator_P > 0)
            sums = ClusterSums.of(own, clusters)
            value, gap = estimate(sums, is_share=True), estimate(sums)
            cells.append(
                _cell(
                    spec.key,
                    value,
                    CHANCE,
                    _shifted(gap, CHANCE),
                    standard_error(sums.residuals_C, sums.n_clusters),
                    choices.p(mask_P, rng_for(config.seed, f"{user.name} {spec.key}"), config.permutations),
                    p_halves if spec.positions == "all" else None,
                )
            )
        return cells

    def _leaving_cells(
        self, user: PlantedUserSpec, planted: PlantedTurns, undefined: dict[str, str]
    ) -> list[PlantedCell]:
        if self.instruments.leaving is None:
            return []
        numbers = self._measure_leaving(planted)
        keys = [spec.key for spec in self.instruments.leaving.specs]
        undefined |= {key: "undefined for these prefixes" for key in keys if key not in numbers}
        return [
            _cell(
                key,
                number.value,
                number.people or 0.0,
                _shifted(number.value, number.people or 0.0),
                (number.value.high - number.value.low) / 2 / Z95,
                number.p,
                None,
            )
            for key, number in numbers.items()
            if key in keys
        ]

    def _measure_leaving(self, planted: PlantedTurns) -> Mapping[str, LeavingNumber]:
        if planted.name not in self._left and self.instruments.leaving is not None:
            self._left[planted.name] = self.instruments.leaving.measure(
                planted.prefixes, planted.turns, self.config.seed
            )
        return self._left.get(planted.name, {})

    def _people_rows(self, discriminator: DiscriminatorFamily, prefixes: Sequence[Prefix]) -> Any:
        key = discriminator.representation.family, tuple(p.id for p in prefixes)
        if key not in self._rows:
            texts = [p.text or "" for p in prefixes]
            self._rows[key] = discriminator.representation.features(prefixes, texts)
        return self._rows[key]

    def _discriminator_tests(
        self, prefixes: Sequence[Prefix], names: Sequence[str]
    ) -> dict[str, Callable[[Masks], float]]:
        clusters = [p.cluster for p in prefixes]
        place = {name: number for number, name in enumerate(names)}
        owner_P = np.array([place[name] for name in clusters])

        def test(discriminator: DiscriminatorFamily) -> Callable[[Masks], float]:
            deals = discriminator.unpaired(
                self._people_rows(discriminator, prefixes),
                clusters,
                ridge=discriminator.representation.ridge,
                seed=self.config.seed,
            )
            return lambda first_C: deals.p(
                first_C[owner_P], seed=self.config.seed, permutations=self.config.permutations
            )

        return {
            f"told_apart.{one.representation.family}": test(one) for one in self.instruments.discriminators
        }

    def _half(self, shared: Sequence[Prefix]) -> tuple[Masks, Masks]:
        """Half of the clusters, by cluster and by prefix."""
        names = sorted({p.cluster for p in shared})
        source_of = {p.cluster: p.source for p in shared}
        rng = rng_for(self.config.seed, "half of planted")
        first_C = split_masks([source_of[name] for name in names], 1, rng)[0]
        first = {name for name, is_first in zip(names, first_C, strict=True) if is_first}
        return first_C, np.array([p.cluster in first for p in shared])

    def _leaving_of_people(self) -> ClusterSums | None:
        """Share of the later prefixes at which people left, over the clusters of the texts."""
        if self.instruments.leaving is None or not any(p.has_left for p in self.people_sample.prefixes):
            return None
        values = Values.of(
            [float(p.has_left) if p.position > 1 else None for p in self.people_sample.prefixes]
        )
        return ClusterSums.of(values, [p.cluster for p in self.people_sample.prefixes])

    def _scale(self, cell: PlantedCell) -> float:
        """Ratio of the sample's conversations to the clusters that the cell's n counts."""
        conversations = len({p.conversation for p in self.people_sample.prefixes})
        return conversations / max(cell.difference.n, 1)


def _texts(prefixes: Sequence[Prefix], turns: SimulatedTurns) -> list[str]:
    return [turns.text(prefix) or "" for prefix in prefixes]


def _part(sums: ClusterSums, mask_C: Masks) -> ClusterSums:
    return ClusterSums(sums.numerator_C[mask_C], sums.denominator_C[mask_C])


def _shifted(value: Estimate, null: float) -> Estimate:
    return Estimate(value=value.value - null, low=value.low - null, high=value.high - null, n=value.n)


def _cell(
    key: str, value: Estimate, people: float, gap: Estimate, error: float, p: float, unpaired: float | None
) -> PlantedCell:
    return PlantedCell(
        key=key,
        value=value,
        people=people,
        difference=gap,
        error=error,
        z=gap.value / error if error > 1e-12 else None,
        p=p,
        p_holm=p,
        p_unpaired=unpaired,
        is_meant=False,
        is_caught=False,
    )


def _adjusted(cells: Sequence[PlantedCell]) -> list[PlantedCell]:
    """Cells with Holm's adjustment over all of them; unpaired p are adjusted separately."""
    paired = holm([cell.p for cell in cells])
    has_unpaired = [cell for cell in cells if cell.p_unpaired is not None]
    unpaired = dict(
        zip(
            [cell.key for cell in has_unpaired],
            holm([cell.p_unpaired or 0.0 for cell in has_unpaired]),
            strict=True,
        )
    )
    return [
        cell.model_copy(update={"p_holm": p, "p_unpaired_holm": unpaired.get(cell.key)})
        for cell, p in zip(cells, paired, strict=True)
    ]


def _judged(cell: PlantedCell, direction: Direction | None, scale: float, tests: int) -> PlantedCell:
    """Cell with its verdict, and the n at which it would be detected as the smallest p of all `tests`."""
    is_caught = cell.p_holm < ALPHA
    if direction in ("lower", "above") or direction == "higher":
        sign = -1 if direction == "lower" else 1
        is_caught = is_caught and sign * cell.difference.value > 0
    elif direction == "bounded":
        is_caught = cell.value.high < CLOCK_BOUND
    needed = None if is_caught or direction is None else _needed_n(cell, direction, scale, tests)
    return cell.model_copy(
        update={"is_meant": direction is not None, "is_caught": is_caught, "needed_n": needed}
    )


def _needed_n(cell: PlantedCell, direction: Direction, scale: float, tests: int) -> int | None:
    """Conversations for 80 % power, from the effect and its standard error; None if the effect has the wrong sign."""
    error, effect = cell.error, cell.difference.value
    if direction == "bounded":
        effect, threshold = CLOCK_BOUND - cell.value.value, float(norm.ppf(0.975))
    else:
        effect = -effect if direction == "lower" else abs(effect) if direction == "different" else effect
        threshold = float(norm.isf(ALPHA / tests / 2))
    if effect <= 0 or error <= 0:
        return None
    needed = cell.difference.n * ((threshold + float(norm.ppf(POWER))) * error / effect) ** 2
    return math.ceil(needed * scale)


def _both_scorers(cells: Sequence[PlantedCell], specs: Mapping[str, MetricSpec]) -> bool | None:
    """True if both scorers of one number meant for the user detected it; None if no number has two scorers."""
    by_number: dict[str, list[bool]] = {}
    for cell in cells:
        scorer = specs[cell.key].scorer
        if scorer is not None:
            name = ".".join(part for part in cell.key.split(".") if part != scorer)
            by_number.setdefault(name, []).append(cell.is_caught)
    twice = [flags for flags in by_number.values() if len(flags) > 1]
    return any(map(all, twice)) if twice else None


def _result(user: PlantedUserSpec, *, left_out: str) -> UserResult:
    return UserResult(name=user.name, label=user.label, made=user.description, left_out=left_out)


def _values_by_key(
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


def _only_meant(instruments: Instruments, config: SelfTestConfig) -> Instruments:
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
