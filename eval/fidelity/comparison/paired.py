"""Two simulators on the same goals: each pair of conversations stays together in every resample.

What makes a goal hard to play is then on both sides and drops out of the difference, and so does the human sample.
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
from eval.fidelity.comparison.comparison_record import Comparison, Contender, FigureGap, gap_of, with_winners
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
class Side:
    """One simulator's conversations under its name."""

    name: str
    conversations: Sequence[Conversation]
    file: FileFacts


def compare_paired(
    human: Sequence[Conversation],
    human_file: FileFacts,
    first: Side,
    second: Side,
    config: EvalConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Raises DataError for too few pairs, and for what the battery refuses."""
    config, started = config or EvalConfig(), time.monotonic()
    prepared = prepare(human, {side.name: side.conversations for side in (first, second)}, config)
    pairs, prepared = _chosen_pairs(prepared, first.name, second.name, config)
    samples = {
        side.name: prepared.simulated[side.name].take([pair[place] for _, pair in pairs])
        for place, side in enumerate((first, second))
    }
    ours, tasks = prepared.compared_human(config.seed), [task for task, _ in pairs]
    draws = _joint_draws(tasks, ours, config)
    both = dict.fromkeys(samples, draws)
    floors, found = measure_all(prepared, samples, ours, both, config, progress or (lambda _: None))
    measured = [
        dict(chain.from_iterable(one.measured.items() for one in found[side.name]))
        for side in (first, second)
    ]
    gaps, missing = _gaps(measured[0], measured[1], floors, prepared.n, config, draws)
    return Comparison(
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
        seconds=round(time.monotonic() - started, 2),
    )


def task_of_pair(conversation: Conversation) -> str:
    """The goal; without one, the id, which runs over the same cases share."""
    goal = conversation.profile.goal
    return goal.summary if goal else f"case {conversation.id}"


def pairs_of(
    first: Sequence[Conversation], second: Sequence[Conversation]
) -> list[tuple[str, tuple[int, int]]]:
    """(task, places in both): the k-th conversation about a task with the other side's k-th, in file order."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, conversation in enumerate(second):
        places[task_of_pair(conversation)].append(place)
    waiting = {task: iter(found) for task, found in places.items()}
    pairs = []
    for place, conversation in enumerate(first):
        task = task_of_pair(conversation)
        partner = next(waiting.get(task, iter(())), None)
        if partner is not None:
            pairs.append((task, (place, partner)))
    return pairs


def _chosen_pairs(
    prepared: Prepared, first: str, second: str, config: EvalConfig
) -> tuple[list[tuple[str, tuple[int, int]]], Prepared]:
    """At most n pairs, whole tasks drawn at random, and `prepared` with the n that is left."""
    ours, theirs = (prepared.simulated[name].conversations for name in (first, second))
    pairs = pairs_of(ours, theirs)
    n = min(prepared.n, len(pairs))
    if n < config.min_n:
        raise DataError(
            f"too few pairs: {len(pairs)} conversations of {first} ({len(ours)}) and {second} ({len(theirs)}) share a "
            f"goal, or an id where there is no goal; {config.min_n} are needed: simulate both from one file of goals"
        )
    order = person_order([task for task, _ in pairs], rng_for(config.seed, "pairs"))[:n]
    return [pairs[place] for place in order], replace(prepared, n=n)


def _joint_draws(tasks: Sequence[str], human: Sample, config: EvalConfig) -> Draws:
    """Row b of `simulated_BN` counts pairs, so it is used for both simulators alike."""
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
) -> tuple[list[FigureGap], dict[str, str]]:
    (ours, missing), (theirs, also_missing) = (judged(m, floors, n, config, draws) for m in (first, second))
    missing, partner = missing | also_missing, {figure.key: figure for figure in theirs}
    gaps = []
    for figure in ours:
        if figure.key not in partner:
            continue
        sign = 1.0 if figure.worse == "higher" else -1.0
        found = paired_gap(first[figure.key], second[figure.key], sign, n)
        if found is None:
            missing[figure.key] = (
                f"{figure.label}: most resamples hold nothing to measure it on for both at once"
            )
        else:
            gaps.append(gap_of(figure, partner[figure.key], *found))
    if not gaps:
        raise DataError(f"no figure of {', '.join(config.metrics)} could be measured for both simulators")
    return gaps, missing


def paired_gap(first: Measured, second: Measured, sign: float, n: int) -> tuple[Estimate, float] | None:
    """(sign · (first - second) with a percentile interval, two-sided p); None where resamples hold nothing.

    The replicates are centred on the gap, as in `eval.fidelity.verdicts.judge`. p is twice the smaller share
    of replicates on one side of zero, with one added to both counts (Davison & Hinkley 1997, §4.2); where none
    is there, the normal
    tail says how much below that it is, as in `eval.fidelity.verdicts.p_of_excess`.
    """
    replicates = sign * (first.replicates - second.replicates)
    known = np.isfinite(replicates)
    if known.mean() < KNOWN_SHARE:
        return None
    gap = sign * (first.value - second.value)
    centred = replicates[known] - np.median(replicates[known]) + gap
    low, high = interval(centred)
    fewer, spread = min(int((centred <= 0).sum()), int((centred >= 0).sum())), float(centred.std())
    p = min(1.0, 2 * (fewer + 1) / (len(centred) + 1))
    if not fewer:
        p = min(p, max(math.erfc(abs(gap) / spread / math.sqrt(2)) if spread > 0 else 0.0, 1e-12))
    return Estimate(value=gap, low=low, high=high, n=n), p


def _contender(side: Side, prepared: Prepared) -> Contender:
    kept = len(prepared.simulated[side.name])
    return Contender(name=side.name, file=side.file, compared=prepared.n, left_out=kept - prepared.n)
