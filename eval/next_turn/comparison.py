"""Comparison of simulators with people, metric by metric, at the same prefixes.

Readings of a metric:
- *like people*: the whole interval of the difference lies within a margin fixed here, in the metric's unit.
- *more* or *less*: the permutation test, Holm-adjusted over the simulator's metrics, stays below 5 %.
- *not told*: neither.

Metrics of two scorers make one claim, which both must support.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from eval.fidelity.verdicts import holm
from eval.next_turn.metrics.values import (
    PERMUTATIONS,
    ClusterSums,
    Group,
    MetricSpec,
    Values,
    difference,
    estimate,
    p_against,
    p_paired,
)
from eval.next_turn.prefixes import Prefix
from usersim.stats.estimates import Estimate, rng_for
from usersim.types import Record

Reading = Literal["like people", "more", "less", "not told"]
ALPHA = 0.05
MARGINS: dict[str, float] = {
    # Two-alternative forced choice: 55 % is hardly better than guessing. On development data a third of the words
    # shuffled gets 79 %.
    "told_apart": 0.05,
    # Nats a turn. On development data people's own contrast is 18 with the history and 27 with the goal, but 5 with the
    # last answer: there the margin is wide, and the second scorer decides.
    "coherence.lm": 3.0,
    # Cosine: on development data people's own contrast is 0.30 with the answer, 0.41 with the goal.
    "coherence.embedding": 0.03,
    # Bits per character: on development data 30 % shuffled words and word gibberish cost 0.6 to 0.7 more than people.
    "fluency": 0.1,
    # Shares of turns or of facts: three in a hundred.
    "share": 0.03,
}
"""Half-widths of equivalence, fixed before any comparison on test data."""


class Measurement(Record):
    """Value of one metric for one simulator and for people, at the same prefixes."""

    spec: MetricSpec
    simulated: Estimate
    people: Estimate | None
    """None if people have no value, as for a forced choice; the reference is then `null`."""
    null: float | None = None
    difference: Estimate
    """simulated - people, or simulated - null."""
    margin: float
    p: float
    """Two-sided permutation p: labels are swapped within pairs, whole clusters at a time."""
    p_holm: float
    prefixes: int
    reading: Reading


def margin_of(spec: MetricSpec) -> float:
    """Returns the half-width of equivalence in the metric's own unit."""
    for name in (f"{spec.group}.{spec.scorer}", spec.key.split(".")[0], spec.group):
        if name in MARGINS:
            return MARGINS[name]
    return MARGINS["share"]


def compare(
    spec: MetricSpec, simulated: Values, people: Values, prefixes: Sequence[Prefix], seed: int
) -> Measurement | str:
    """Compares a metric of a simulator with that of people; returns the reason if it is undefined."""
    mask = (simulated.denominator_P > 0) & (people.denominator_P > 0)
    if not spec.is_ratio:
        simulated, people = simulated.at(mask), people.at(mask)
    if not mask.any():
        return "defined at no prefix"
    clusters = [prefix.cluster for prefix in prefixes]
    ours, theirs = ClusterSums.of(simulated, clusters), ClusterSums.of(people, clusters)
    if min(ours.n_clusters, theirs.n_clusters) < 2:
        return "defined for one person only"
    p = p_paired(ours, theirs, rng_for(seed, f"permutations {spec.key}"), PERMUTATIONS)
    return Measurement(
        spec=spec,
        simulated=estimate(ours, is_share=spec.is_share),
        people=estimate(theirs, is_share=spec.is_share),
        difference=difference(ours, theirs),
        margin=margin_of(spec),
        p=p,
        p_holm=p,
        prefixes=int((simulated.denominator_P > 0).sum()),
        reading="not told",
    )


def against_null(
    spec: MetricSpec, simulated: Values, null: float, prefixes: Sequence[Prefix], seed: int
) -> Measurement | str:
    """Compares a metric that people have no value of with its null: the value that people would have."""
    sums = ClusterSums.of(simulated, [prefix.cluster for prefix in prefixes])
    if sums.n_clusters < 2:
        return "defined for fewer than two people"
    value = estimate(sums, is_share=spec.is_share)
    p = p_against(sums, null, rng_for(seed, f"permutations {spec.key}"), PERMUTATIONS)
    return Measurement(
        spec=spec,
        simulated=value,
        people=None,
        null=null,
        difference=Estimate(
            value=value.value - null, low=value.low - null, high=value.high - null, n=value.n
        ),
        margin=margin_of(spec),
        p=p,
        p_holm=p,
        prefixes=int((simulated.denominator_P > 0).sum()),
        reading="not told",
    )


def with_readings(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Returns the measurements of one simulator with Holm-adjusted p and their readings."""
    p_values = holm([m.p for m in measurements])
    return [
        m.model_copy(update={"p_holm": p, "reading": _reading(m, p)})
        for m, p in zip(measurements, p_values, strict=True)
    ]


def _reading(measurement: Measurement, p_holm: float) -> Reading:
    gap = measurement.difference
    if -measurement.margin <= gap.low and gap.high <= measurement.margin:
        return "like people"
    if p_holm < ALPHA:
        return "more" if gap.value > 0 else "less"
    return "not told"


class Claim(Record):
    """Statement about a simulator that one metric, or both scorers of one metric together, allow."""

    key: str
    """Key of the metric without the scorer."""
    group: Group
    label: str
    reading: Reading
    disagree: bool = False
    """The two scorers read differently, so nothing is claimed."""
    scorers: int = 1


def claims(measurements: Sequence[Measurement]) -> list[Claim]:
    """Returns one claim per metric; for metrics with two scorers the reading on which both agree."""
    families: dict[str, list[Measurement]] = {}
    for m in measurements:
        families.setdefault(claim_key(m.spec), []).append(m)
    statements = []
    for key, members in families.items():
        readings = {m.reading for m in members}
        is_agreed = len(readings) == 1
        statements.append(
            Claim(
                key=key,
                group=members[0].spec.group,
                label=members[0].spec.label,
                reading=members[0].reading if is_agreed else "not told",
                disagree=not is_agreed,
                scorers=len(members),
            )
        )
    return statements


def claim_key(spec: MetricSpec) -> str:
    """Returns the key that both scorers of a metric share."""
    return ".".join(part for part in spec.key.split(".") if part != spec.scorer)
