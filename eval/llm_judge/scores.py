"""From answers to rates with intervals. A question without an answer is left out and counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from eval.fidelity.metrics.interaction.user_acts import USER_ACTS
from eval.llm_judge.agreement import Agreement, agreement, corrected_rate
from eval.llm_judge.plan import Kind, Pair, Sampled
from eval.llm_judge.questions import Item, Task
from usersim.stats.estimates import Estimate, Floats, bootstrap_ratio, cluster_resamples, rng_for, wilson
from usersim.types import Record

REPEATS = 1000
ENOUGH = 20
"""Messages after one act of the assistant below which no rates are given."""
Answers = Mapping[str, str]
"""Label by the item's key."""


class PairRate(Record):
    name: str
    kind: Kind
    pairs: int
    same_goal: int
    unanswered: int
    called_human: Estimate
    """Share of judgements that took the target for the person; each pair counts its two orders. 50 %: cannot tell.
    In a control the target is one of two of a kind, so that 50 % is expected and the interval shows the noise."""
    consistent: Estimate
    """Share of pairs in which both orders named the same chat; a judge who guesses: 50 %."""
    first_place: Estimate
    """Share of judgements that named the first chat, whatever it was; 50 % without a preference for a place."""


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
    """As the judge labelled."""
    corrected: Estimate | None = None
    """As people would have, by the judge's errors on the labelled sample; None without one, or where it says too
    little."""


class Transition(Record):
    """What users do after an act of the assistant (our rules), as the judge labelled."""

    source: str
    after: str
    messages: int
    rates: dict[str, Estimate]


def pair_rates(pairs: Sequence[Pair], answers: Answers, seed: int) -> list[PairRate]:
    groups: dict[tuple[str, Kind], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.name, pair.kind].append(pair)
    made = [_pair_rate(name, kind, found, answers, seed) for (name, kind), found in groups.items()]
    return [rate for rate in made if rate is not None]


def _pair_rate(name: str, kind: Kind, pairs: Sequence[Pair], answers: Answers, seed: int) -> PairRate | None:
    """None where no pair has both answers."""
    whole = [p for p in pairs if p.forward.key in answers and p.backward.key in answers]
    if not whole:
        return None
    forward = np.array([answers[p.forward.key] == "second" for p in whole], dtype=np.float64)
    backward = np.array([answers[p.backward.key] == "first" for p in whole], dtype=np.float64)
    clusters = [p.cluster for p in whole]

    def estimate(values: Floats, what: str) -> Estimate:
        return share(values, clusters, seed, f"{name} {kind} {what}")

    return PairRate(
        name=name,
        kind=kind,
        pairs=len(whole),
        same_goal=sum(p.same_goal for p in whole),
        unanswered=len(pairs) - len(whole),
        called_human=estimate((forward + backward) / 2, "called human"),
        consistent=estimate((forward == backward).astype(np.float64), "consistent"),
        first_place=estimate((1 - forward + backward) / 2, "first place"),
    )


def share(values: Floats, clusters: Sequence[str], seed: int, purpose: str) -> Estimate:
    """Mean of values within 0 and 1 with the wider of two intervals: percentiles over resampled clusters, and Wilson's
    at as many trials as there are clusters. The first has no width where all values agree."""
    counts_BN = cluster_resamples(clusters, REPEATS, rng_for(seed, purpose))
    found = bootstrap_ratio(values, np.ones(len(values)), counts_BN)
    trials = len(set(clusters))
    scored = wilson(round(found.value * trials), trials)
    return found.model_copy(
        update={"low": min(found.low, scored.low), "high": max(found.high, scored.high), "n": len(values)}
    )


def score_rows(chats: Sequence[Sampled], answers: Answers, seed: int) -> list[ScoreRow]:
    rows = []
    for source, found in by_source(chats).items():
        kept = [s for s in found if s.item.key in answers]
        if not kept:
            continue
        scores = np.array([float(answers[s.item.key]) for s in kept])
        counts_BN = cluster_resamples([s.cluster for s in kept], REPEATS, rng_for(seed, f"natural {source}"))
        rows.append(
            ScoreRow(
                source=source,
                chats=len(kept),
                unanswered=len(found) - len(kept),
                mean=bootstrap_ratio(scores, np.ones(len(kept)), counts_BN),
                distribution={str(k): int((scores == k).sum()) for k in range(1, 6)},
            )
        )
    return rows


def act_rows(
    messages: Sequence[Sampled], answers: Answers, people: Answers, seed: int
) -> tuple[list[ActRow], list[Transition]]:
    """`people`: labels by consensus, on any of the items; without them nothing is corrected."""
    rows, transitions = list[ActRow](), list[Transition]()
    both = [s for s in messages if s.item.key in answers and s.item.key in people]
    errors_BM = cluster_resamples([s.cluster for s in both] or ["none"], REPEATS, rng_for(seed, "errors"))
    for source, found in by_source(messages).items():
        kept = [s for s in found if s.item.key in answers]
        if not kept:
            continue
        clusters = [s.cluster for s in kept]
        counts_BN = cluster_resamples(clusters, REPEATS, rng_for(seed, f"acts {source}"))
        for act in USER_ACTS:
            flags = _flags(kept, answers, act)
            corrected = (
                corrected_rate(
                    flags, counts_BN, _flags(both, people, act), _flags(both, answers, act), errors_BM
                )
                if both
                else None
            )
            rate = share(flags, clusters, seed, f"act {source} {act}")
            rows.append(ActRow(source=source, act=act, messages=len(kept), rate=rate, corrected=corrected))
        transitions += _transitions(source, kept, answers, seed)
    return rows, transitions


def _transitions(source: str, kept: Sequence[Sampled], answers: Answers, seed: int) -> list[Transition]:
    made = []
    for after in sorted({act for s in kept for act in s.after}):
        those = [s for s in kept if after in s.after]
        if len(those) < ENOUGH:
            continue
        clusters = [s.cluster for s in those]
        rates: dict[str, Estimate] = {
            act: share(_flags(those, answers, act), clusters, seed, f"{source} {after} {act}")
            for act in USER_ACTS
        }
        made.append(Transition(source=source, after=after, messages=len(those), rates=rates))
    return made


def _flags(items: Sequence[Sampled], answers: Answers, act: str) -> Floats:
    return np.array([answers[s.item.key] == act for s in items], dtype=np.float64)


def by_source(sampled: Sequence[Sampled]) -> dict[str, list[Sampled]]:
    groups: dict[str, list[Sampled]] = defaultdict(list)
    for one in sampled:
        groups[one.source].append(one)
    return groups


def unanswered(items: Sequence[Item], answers: Answers) -> dict[Task, int]:
    return dict(Counter(item.task for item in items if item.key not in answers))


def rules_against_judge(messages: Sequence[Sampled], answers: Answers, seed: int) -> Agreement | None:
    """Our rules label the same messages; how far do the two agree?"""
    rules = {s.item.key: s.by_rule for s in messages if s.by_rule is not None}
    clusters = {s.item.key: s.cluster for s in messages}
    judged = {key: label for key, label in answers.items() if key in rules}
    return agreement("act", "rules and judge", rules, judged, clusters, seed=seed)
