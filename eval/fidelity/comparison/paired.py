"""Paired comparison of two simulators on the same goals: each pair of conversations stays together in every resample.

The difficulty of a goal is then on both sides and cancels in the difference, and so does the human sample.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from eval.fidelity.battery import Progress, judged, measure_all
from eval.fidelity.comparison.comparison_record import (
    Contender,
    MetricGap,
    SimulatorComparison,
    gap_of,
    with_winners,
)
from eval.fidelity.confounds import answers_in_words
from eval.fidelity.report_record import FileFacts, versions
from eval.fidelity.samples.features import Sample
from eval.fidelity.samples.matching import person_of
from eval.fidelity.samples.prepare import Prepared, prepare
from eval.fidelity.settings import EvalConfig
from eval.fidelity.verdicts import KNOWN_SHARE
from usersim.errors import DataError
from usersim.stats.estimates import (
    Draws,
    Estimate,
    Floats,
    Measured,
    cluster_resamples,
    interval,
    person_order,
    rng_for,
)
from usersim.types import Conversation


@dataclass(frozen=True)
class SimulatorFile:
    """Conversations of one simulator, with its name and file."""

    name: str
    conversations: Sequence[Conversation]
    file: FileFacts


def compare_paired(
    human: Sequence[Conversation],
    human_file: FileFacts,
    first: SimulatorFile,
    second: SimulatorFile,
    config: EvalConfig | None = None,
    *,
    progress: Progress | None = None,
) -> SimulatorComparison:
    """Compares two simulators goal by goal. Raises DataError for too few pairs, and wherever the battery does."""
    config, start_time = config or EvalConfig(), time.monotonic()
    prepared = prepare(human, {side.name: side.conversations for side in (first, second)}, config)
    pairs, prepared = _sampled_pairs(prepared, first.name, second.name, config)
    samples = {
        side.name: prepared.simulated[side.name].take([pair[index] for _, pair in pairs])
        for index, side in enumerate((first, second))
    }
    compared_human, tasks = prepared.compared_human(config.seed), [task for task, _ in pairs]
    draws = _joint_draws(tasks, compared_human, config)
    draws_by_name = dict.fromkeys(samples, draws)
    floors, family_values = measure_all(
        prepared, samples, compared_human, draws_by_name, config, progress or (lambda _: None)
    )
    measured = [
        dict(chain.from_iterable(family.measured.items() for family in family_values[side.name]))
        for side in (first, second)
    ]
    gaps, missing = _gaps(measured[0], measured[1], floors, prepared.n, config, draws)
    return SimulatorComparison(
        paired=True,
        n=prepared.n,
        goals=len(set(tasks)),
        first=_contender(first, prepared),
        second=_contender(second, prepared),
        human_file=human_file,
        figures=with_winners(gaps),
        missing=missing,
        notes=(
            *prepared.notes,
            *(
                f"{name}: {answers_in_words(side, prepared.human_side)}"
                for name, side in prepared.simulated_sides.items()
            ),
        ),
        config=config,
        versions=versions(),
        seconds=round(time.monotonic() - start_time, 2),
    )


def task_of_pair(conversation: Conversation) -> str:
    """Returns the goal of a conversation; without one, its id, which runs over the same cases share."""
    goal = conversation.profile.goal
    return goal.summary if goal else f"case {conversation.id}"


def pairs_of(
    first: Sequence[Conversation], second: Sequence[Conversation]
) -> list[tuple[str, tuple[int, int]]]:
    """Returns (task, indices on both sides): the k-th conversation of a task with the other side's k-th, in
    file order."""
    indices: dict[str, list[int]] = defaultdict(list)
    for index, conversation in enumerate(second):
        indices[task_of_pair(conversation)].append(index)
    unpaired = {task: iter(index_list) for task, index_list in indices.items()}
    pairs = []
    for index, conversation in enumerate(first):
        task = task_of_pair(conversation)
        partner = next(unpaired.get(task, iter(())), None)
        if partner is not None:
            pairs.append((task, (index, partner)))
    return pairs


def _sampled_pairs(
    prepared: Prepared, first: str, second: str, config: EvalConfig
) -> tuple[list[tuple[str, tuple[int, int]]], Prepared]:
    """Returns at most n pairs, whole tasks sampled at random, and `prepared` with the new n."""
    first_conversations, second_conversations = (
        prepared.simulated[name].conversations for name in (first, second)
    )
    pairs = pairs_of(first_conversations, second_conversations)
    n = min(prepared.n, len(pairs))
    if n < config.min_n:
        raise DataError(
            f"too few pairs: {len(pairs)} conversations of {first} ({len(first_conversations)}) and {second} "
            f"({len(second_conversations)}) share a "
            f"goal, or an id where there is no goal; {config.min_n} are needed: simulate both from one file of goals"
        )
    order = person_order([task for task, _ in pairs], rng_for(config.seed, "pairs"))[:n]
    return [pairs[index] for index in order], replace(prepared, n=n)


def _joint_draws(tasks: Sequence[str], human: Sample, config: EvalConfig) -> Draws:
    """Returns resamples in which row b of `simulated_BN` counts pairs, so that it serves both simulators."""
    rng = rng_for(config.seed, "paired bootstrap")
    people = [person_of(conversation) for conversation in human.conversations]
    return Draws(
        simulated_BN=cluster_resamples(tasks, config.bootstrap, rng),
        human_BN=cluster_resamples(people, config.bootstrap, rng),
    )


def _gaps(
    first: dict[str, Measured],
    second: dict[str, Measured],
    floors: dict[str, Floats],
    n: int,
    config: EvalConfig,
    draws: Draws,
) -> tuple[list[MetricGap], dict[str, str]]:
    (first_metrics, missing), (second_metrics, also_missing) = (
        judged(m, floors, n, config, draws) for m in (first, second)
    )
    missing, partners = missing | also_missing, {metric.key: metric for metric in second_metrics}
    gaps = []
    for metric in first_metrics:
        if metric.key not in partners:
            continue
        sign = 1.0 if metric.worse == "higher" else -1.0
        gap_and_p = paired_gap(first[metric.key], second[metric.key], sign, n)
        if gap_and_p is None:
            missing[metric.key] = (
                f"{metric.label}: most resamples hold nothing to measure it on for both at once"
            )
        else:
            gaps.append(gap_of(metric, partners[metric.key], *gap_and_p))
    if not gaps:
        raise DataError(f"no metric of {', '.join(config.metrics)} could be measured for both simulators")
    return gaps, missing


def paired_gap(first: Measured, second: Measured, sign: float, n: int) -> tuple[Estimate, float] | None:
    """Returns (sign · (first - second) with a percentile interval, two-sided p); None where too few resamples can be
    measured.

    The replicates are centred on the gap, as in `eval.fidelity.verdicts.judge`. The p-value is twice the smaller
    share of replicates on one side of zero, with one added to both counts (Davison & Hinkley 1997, §4.2). Where
    no replicate is on that side, the normal tail gives it, as in `eval.fidelity.verdicts.p_of_excess`.
    """
    replicates = sign * (first.replicates - second.replicates)
    is_finite = np.isfinite(replicates)
    if is_finite.mean() < KNOWN_SHARE:
        return None
    gap = sign * (first.value - second.value)
    centred = replicates[is_finite] - np.median(replicates[is_finite]) + gap
    low, high = interval(centred)
    count_beyond, spread = min(int((centred <= 0).sum()), int((centred >= 0).sum())), float(centred.std())
    p = min(1.0, 2 * (count_beyond + 1) / (len(centred) + 1))
    if not count_beyond:
        p = min(p, max(math.erfc(abs(gap) / spread / math.sqrt(2)) if spread > 0 else 0.0, 1e-12))
    return Estimate(value=gap, low=low, high=high, n=n), p


def _contender(side: SimulatorFile, prepared: Prepared) -> Contender:
    kept_count = len(prepared.simulated[side.name])
    return Contender(name=side.name, file=side.file, compared=prepared.n, left_out=kept_count - prepared.n)
