"""Rates with intervals from a judge's answers. Questions without an answer are left out and counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from eval.fidelity.metrics.interaction.user_acts import USER_ACTS
from eval.llm_judge.agreement import LabelAgreement, agreement, corrected_rate
from eval.llm_judge.plan import JudgedPair, Kind, SampledItem
from eval.llm_judge.questions import Item, Task
from usersim.stats.estimates import Estimate, Floats, bootstrap_ratio, cluster_resamples, rng_for, wilson
from usersim.types import Record

REPEATS = 1000
ENOUGH = 20
"""Messages after one act of the assistant below which there are no rates."""
Answers = Mapping[str, str]
"""Label by the item's key."""


class PairRate(Record):
    name: str
    kind: Kind
    pairs: int
    same_goal: int
    unanswered: int
    called_human: Estimate
    """Share of judgements that took the target for the person; each pair counts in both orders. 50 % is chance. In a
    control the target is one of two of a kind, so that 50 % is expected and the interval shows the noise."""
    consistent: Estimate
    """Share of pairs in which both orders named the same chat; 50 % for a judge who guesses."""
    first_place: Estimate
    """Share of judgements that named the first chat; 50 % without a position bias."""


class ScoreRow(Record):
    source: str
    chats: int
    unanswered: int
    mean: Estimate
    """Naturalness, 1 to 5."""
    distribution: dict[str, int]


class ActRow(Record):
    source: str
    act: str
    messages: int
    rate: Estimate
    """Share by the judge's labels."""
    corrected: Estimate | None = None
    """Share as people would have labelled it, by the judge's errors on the labelled sample; None without such a
    sample, or where it is uninformative."""


class Transition(Record):
    """User acts after an act of the assistant (by rules), as the judge labelled them."""

    source: str
    after: str
    messages: int
    rates: dict[str, Estimate]


def pair_rates(pairs: Sequence[JudgedPair], answers: Answers, seed: int) -> list[PairRate]:
    groups: dict[tuple[str, Kind], list[JudgedPair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.name, pair.kind].append(pair)
    rates = [
        _pair_rate(name, kind, group_pairs, answers, seed) for (name, kind), group_pairs in groups.items()
    ]
    return [rate for rate in rates if rate is not None]


def _pair_rate(
    name: str, kind: Kind, pairs: Sequence[JudgedPair], answers: Answers, seed: int
) -> PairRate | None:
    """Returns the rates of a group of pairs; None where no pair has both answers."""
    complete_pairs = [p for p in pairs if p.forward.key in answers and p.backward.key in answers]
    if not complete_pairs:
        return None
    forward = np.array([answers[p.forward.key] == "second" for p in complete_pairs], dtype=np.float64)
    backward = np.array([answers[p.backward.key] == "first" for p in complete_pairs], dtype=np.float64)
    clusters = [p.cluster for p in complete_pairs]

    def estimate(values: Floats, purpose: str) -> Estimate:
        return share(values, clusters, seed, f"{name} {kind} {purpose}")

    return PairRate(
        name=name,
        kind=kind,
        pairs=len(complete_pairs),
        same_goal=sum(p.same_goal for p in complete_pairs),
        unanswered=len(pairs) - len(complete_pairs),
        called_human=estimate((forward + backward) / 2, "called human"),
        consistent=estimate((forward == backward).astype(np.float64), "consistent"),
        first_place=estimate((1 - forward + backward) / 2, "first place"),
    )


def share(values: Floats, clusters: Sequence[str], seed: int, purpose: str) -> Estimate:
    """Returns the mean of values within 0 and 1 with the wider of two intervals: percentiles over resampled
    clusters, and Wilson's with as many trials as clusters. The first has no width where all values agree."""
    counts_BN = cluster_resamples(clusters, REPEATS, rng_for(seed, purpose))
    clustered = bootstrap_ratio(values, np.ones(len(values)), counts_BN)
    trials = len(set(clusters))
    wilson_estimate = wilson(round(clustered.value * trials), trials)
    return clustered.model_copy(
        update={
            "low": min(clustered.low, wilson_estimate.low),
            "high": max(clustered.high, wilson_estimate.high),
            "n": len(values),
        }
    )


def score_rows(chats: Sequence[SampledItem], answers: Answers, seed: int) -> list[ScoreRow]:
    rows = []
    for source, samples in by_source(chats).items():
        answered = [s for s in samples if s.item.key in answers]
        if not answered:
            continue
        scores = np.array([float(answers[s.item.key]) for s in answered])
        counts_BN = cluster_resamples(
            [s.cluster for s in answered], REPEATS, rng_for(seed, f"natural {source}")
        )
        rows.append(
            ScoreRow(
                source=source,
                chats=len(answered),
                unanswered=len(samples) - len(answered),
                mean=bootstrap_ratio(scores, np.ones(len(answered)), counts_BN),
                distribution={str(k): int((scores == k).sum()) for k in range(1, 6)},
            )
        )
    return rows


def act_rows(
    messages: Sequence[SampledItem], answers: Answers, people: Answers, seed: int
) -> tuple[list[ActRow], list[Transition]]:
    """Returns the rates of acts and transitions. `people` holds consensus labels of any of the items; without them
    nothing is corrected."""
    rows, transitions = list[ActRow](), list[Transition]()
    doubly_labelled = [s for s in messages if s.item.key in answers and s.item.key in people]
    errors_BM = cluster_resamples(
        [s.cluster for s in doubly_labelled] or ["none"], REPEATS, rng_for(seed, "errors")
    )
    for source, samples in by_source(messages).items():
        answered = [s for s in samples if s.item.key in answers]
        if not answered:
            continue
        clusters = [s.cluster for s in answered]
        counts_BN = cluster_resamples(clusters, REPEATS, rng_for(seed, f"acts {source}"))
        for act in USER_ACTS:
            flags = _flags(answered, answers, act)
            corrected = (
                corrected_rate(
                    flags,
                    counts_BN,
                    _flags(doubly_labelled, people, act),
                    _flags(doubly_labelled, answers, act),
                    errors_BM,
                )
                if doubly_labelled
                else None
            )
            rate = share(flags, clusters, seed, f"act {source} {act}")
            rows.append(
                ActRow(source=source, act=act, messages=len(answered), rate=rate, corrected=corrected)
            )
        transitions += _transitions(source, answered, answers, seed)
    return rows, transitions


def _transitions(
    source: str, answered: Sequence[SampledItem], answers: Answers, seed: int
) -> list[Transition]:
    transitions = []
    for after in sorted({act for s in answered for act in s.after}):
        after_samples = [s for s in answered if after in s.after]
        if len(after_samples) < ENOUGH:
            continue
        clusters = [s.cluster for s in after_samples]
        rates: dict[str, Estimate] = {
            act: share(_flags(after_samples, answers, act), clusters, seed, f"{source} {after} {act}")
            for act in USER_ACTS
        }
        transitions.append(Transition(source=source, after=after, messages=len(after_samples), rates=rates))
    return transitions


def _flags(items: Sequence[SampledItem], answers: Answers, act: str) -> Floats:
    return np.array([answers[s.item.key] == act for s in items], dtype=np.float64)


def by_source(samples: Sequence[SampledItem]) -> dict[str, list[SampledItem]]:
    groups: dict[str, list[SampledItem]] = defaultdict(list)
    for sample in samples:
        groups[sample.source].append(sample)
    return groups


def unanswered(items: Sequence[Item], answers: Answers) -> dict[Task, int]:
    return dict(Counter(item.task for item in items if item.key not in answers))


def rules_against_judge(
    messages: Sequence[SampledItem], answers: Answers, seed: int
) -> LabelAgreement | None:
    """Returns the agreement of the rules with the judge on the same messages."""
    rules = {s.item.key: s.by_rule for s in messages if s.by_rule is not None}
    clusters = {s.item.key: s.cluster for s in messages}
    judged = {key: label for key, label in answers.items() if key in rules}
    return agreement("act", "rules and judge", rules, judged, clusters, seed=seed)
