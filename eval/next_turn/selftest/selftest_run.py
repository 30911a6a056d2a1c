"""Run of the self-test: measures planted users and people with all metrics, people's values computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.next_turn.metrics.values import (
    ClusterSums,
    Values,
    at_positions,
    difference,
    estimate,
    p_paired,
    p_unpaired,
    standard_error,
)
from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.instruments import (
    CHANCE,
    DiscriminatorFamily,
    Instruments,
    LeavingNumber,
    Masks,
    Progress,
    select_values,
)
from eval.next_turn.selftest.people_against_people import cluster_counts, coverage, halves, pairs, split_masks
from eval.next_turn.selftest.planted_material import PlantedTurns
from eval.next_turn.selftest.planted_table import TABLE, PlantedUserSpec
from eval.next_turn.selftest.selftest_record import (
    PeopleResult,
    PlantedCell,
    SelfTestConfig,
    UserResult,
)
from eval.next_turn.selftest.selftest_sample import SelfTestSample
from eval.next_turn.selftest.verdicts import (
    adjust_cells,
    both_scorers_caught,
    judge_cell,
    planted_cell,
    shift_estimate,
)
from eval.next_turn.turns import SimulatedTurns, shared_prefixes
from usersim.stats.estimates import Z95, rng_for


@dataclass
class SelfTestRun:
    """Run of the self-test. People's values are computed once for all planted users with the same prefixes."""

    people_sample: SelfTestSample
    instruments: Instruments
    config: SelfTestConfig
    _values: dict[tuple[str, ...], dict[str, Values]] = field(default_factory=dict)
    _rows: dict[tuple[str, tuple[str, ...]], Any] = field(default_factory=dict)
    _leaving_numbers: dict[str, Mapping[str, LeavingNumber]] = field(default_factory=dict)

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
            speakers[one.name] = texts_of(shared, one.turns)
        human_prefixes = self.texts
        groups.setdefault(tuple(p.id for p in human_prefixes), (human_prefixes, {}))
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
            return unmeasured_result(
                user, left_out=f"it wrote at prefixes of {len({p.cluster for p in shared})} people"
            )
        else:
            cells = self._text_cells(user, planted, shared, undefined)
        cells = adjust_cells(cells)
        directions = {expected.key: expected.direction for expected in user.expectations}
        cells = [judge_cell(cell, directions.get(cell.key), self._scale(cell), len(cells)) for cell in cells]
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
            both_scorers=both_scorers_caught(judged, {s.key: s for s in self.instruments.specs}),
            needed_n=None if is_caught or not needed else of_all(needed),
            cells=tuple(cells),
            undefined=undefined,
        )

    def people(self) -> list[PeopleResult]:
        """Returns the false positives among halves and among pairs of people."""
        prefixes = self.texts
        clusters = [p.cluster for p in prefixes]
        values = {key: v for key, v in self._people_values(prefixes).items() if v.denominator_P.any()}
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
            key: (ClusterSums.of(v, clusters), shares[key])
            for key, v in self._people_values(prefixes).items()
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

    def _people_values(self, prefixes: Sequence[Prefix]) -> dict[str, Values]:
        key = tuple(p.id for p in prefixes)
        if key not in self._values:
            self._values[key] = select_values(
                self.instruments.metrics, lambda metric: metric.people(prefixes)
            )
        return self._values[key]

    def _simulated_values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        return select_values(self.instruments.metrics, lambda metric: metric.values(prefixes, texts))

    def _text_cells(
        self,
        user: PlantedUserSpec,
        planted: PlantedTurns,
        shared: Sequence[Prefix],
        undefined: dict[str, str],
    ) -> list[PlantedCell]:
        config, cells = self.config, list[PlantedCell]()
        texts, clusters = texts_of(shared, planted.turns), [p.cluster for p in shared]
        is_first_C, is_first_P = self._half(shared)
        specs = {spec.key: spec for spec in self.instruments.specs}
        own, theirs = self._simulated_values(shared, texts), self._people_values(shared)
        for key, own_values in own.items():
            people, both_P = theirs[key], (own_values.denominator_P != 0) & (theirs[key].denominator_P != 0)
            if not specs[key].is_ratio:
                own_values, people = own_values.at(both_P), people.at(both_P)
            if not both_P.any():
                undefined[key] = "defined at none of these prefixes"
                continue
            one, two = ClusterSums.of(own_values, clusters), ClusterSums.of(people, clusters)
            rng = rng_for(config.seed, f"{user.name} {key}")
            half_one, half_two = part_of(one, is_first_C), part_of(two, ~is_first_C)
            is_unpaired = bool(half_one.denominator_C.any() and half_two.denominator_C.any())
            cells.append(
                planted_cell(
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
        unpaired = discriminator.unpaired(
            representation.features(shared, mixed), clusters, ridge=representation.ridge, seed=config.seed
        )
        p_halves = unpaired.p(is_first_P, seed=config.seed, permutations=config.permutations)
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
                planted_cell(
                    spec.key,
                    value,
                    CHANCE,
                    shift_estimate(gap, CHANCE),
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
            planted_cell(
                key,
                number.value,
                number.people or 0.0,
                shift_estimate(number.value, number.people or 0.0),
                (number.value.high - number.value.low) / 2 / Z95,
                number.p,
                None,
            )
            for key, number in numbers.items()
            if key in keys
        ]

    def _measure_leaving(self, planted: PlantedTurns) -> Mapping[str, LeavingNumber]:
        if planted.name not in self._leaving_numbers and self.instruments.leaving is not None:
            self._leaving_numbers[planted.name] = self.instruments.leaving.measure(
                planted.prefixes, planted.turns, self.config.seed
            )
        return self._leaving_numbers.get(planted.name, {})

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
            unpaired = discriminator.unpaired(
                self._people_rows(discriminator, prefixes),
                clusters,
                ridge=discriminator.representation.ridge,
                seed=self.config.seed,
            )
            return lambda first_C: unpaired.p(
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


def texts_of(prefixes: Sequence[Prefix], turns: SimulatedTurns) -> list[str]:
    return [turns.text(prefix) or "" for prefix in prefixes]


def part_of(sums: ClusterSums, mask_C: Masks) -> ClusterSums:
    return ClusterSums(sums.numerator_C[mask_C], sums.denominator_C[mask_C])


def unmeasured_result(user: PlantedUserSpec, *, left_out: str) -> UserResult:
    return UserResult(name=user.name, label=user.label, made=user.description, left_out=left_out)
