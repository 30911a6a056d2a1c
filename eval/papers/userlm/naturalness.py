"""Naturalness without a commercial detector: the share of a simulator's texts that pass for a person's.

The paper uses a commercial detector (Pangram) for P(human) of first turns of 50 to 200 tokens; people score 90
there. This stand-in is the text classifier of the two-sample test (character n-grams,
`eval.fidelity.metrics.texts.classifier`), trained on this simulator against these people, out of fold. Its
threshold is set so that nine of ten people pass. It knows the simulator, so it is stricter than a detector that
never saw it, and its scores are not comparable with the paper's.

The human reference is the pass rate of people against other people at the same n: about 0.9. A simulator with a
single text cannot be scored out of fold and is left out; the diversity metric detects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from eval.fidelity.metrics.texts.classifier import Classifier
from eval.fidelity.samples.features import Sample
from eval.fidelity.samples.matching import person_of
from eval.papers.userlm.metric_rows import Row, Value
from eval.papers.userlm.wording import SpeakerSample
from usersim.stats.estimates import Estimate, Floats, human_splits, rng_for
from usersim.types import Conversation

View = Literal["openings", "all user turns"]
VIEWS: tuple[View, ...] = ("openings", "all user turns")
PASS = 0.9
SPLITS = 20
LEAST_SCORED = 0.5
"""Share of a side that must have an out-of-fold score."""


def naturalness(
    side: SpeakerSample, people: SpeakerSample, pool: Sequence[Conversation], view: View, seed: int
) -> Row | None:
    """Returns the share of the simulator's texts above the threshold that nine of ten people pass. Halves of `pool`
    give the reference; each must be as large as a side. None where too few texts have an out-of-fold score."""
    simulated_scores, human_scores = humanlike(side.conversations, people.conversations, view, seed)
    rate = pass_rate(simulated_scores, human_scores, side.counts_BN, people.counts_BN)
    if rate is None:
        return None
    value, reference = rate.estimate, human_reference(pool, len(people.conversations), view, seed)
    return Row(
        metric="naturalness",
        speaker=side.name,
        key=f"passes_{view.replace(' ', '_')}",
        label=f"{view} that pass for human",
        better="higher",
        value=value,
        human=reference,
        gap=None if reference is None else _apart(value, reference),
        note="a classifier's pass rate, not Pangram's",
    )


def _apart(value: Estimate, reference: Estimate) -> Estimate:
    """Returns the difference with the widths of both intervals added: too wide rather than too narrow."""
    return Estimate(
        value=value.value - reference.value,
        low=value.low - reference.high,
        high=value.high - reference.low,
        n=value.n,
    )


def humanlike(
    simulated: Sequence[Conversation], human: Sequence[Conversation], view: View, seed: int
) -> tuple[Floats, Floats]:
    """Returns out-of-fold scores of both sides, higher is more human; NaN where a text could not be scored."""
    simulated_sample, human_sample = (
        Sample.of([_view_of(c, view) for c in side]) for side in (simulated, human)
    )
    positive, negative = Classifier("text", seed=seed).scores(simulated_sample, human_sample, human_sample)
    return -positive, -negative


def _view_of(conversation: Conversation, view: View) -> Conversation:
    if view == "all user turns":
        return conversation
    first = next(turn for turn in conversation.turns if turn.role == "user")
    return conversation.model_copy(update={"turns": (first,)})


def pass_rate(ours: Floats, theirs: Floats, ours_BN: Floats, theirs_BN: Floats) -> Value | None:
    """Returns the share of `ours` not below the 10 % quantile of `theirs`; the threshold is resampled too. NaN
    scores are left out; None where they are more than half of a side."""
    ours_scored, theirs_scored = ~np.isnan(ours), ~np.isnan(theirs)
    if min(ours_scored.mean(), theirs_scored.mean()) < LEAST_SCORED:
        return None
    ours, theirs, ours_BN, theirs_BN = (
        ours[ours_scored],
        theirs[theirs_scored],
        ours_BN[:, ours_scored],
        theirs_BN[:, theirs_scored],
    )
    replicates = [
        _share(np.repeat(ours, a.astype(np.int64)), np.repeat(theirs, b.astype(np.int64)))
        for a, b in zip(ours_BN, theirs_BN, strict=True)
    ]
    return Value(value=_share(ours, theirs), replicates=np.array(replicates), n=len(ours))


def _share(ours: Floats, theirs: Floats) -> float:
    if not (len(ours) and len(theirs)):
        return np.nan
    # "lower": one of the people's own scores, so that nine of ten of them do pass.
    return float((ours >= np.quantile(theirs, 1 - PASS, method="lower")).mean())


def human_reference(pool: Sequence[Conversation], n: int, view: View, seed: int) -> Estimate | None:
    """Returns the pass rate between halves of `n` people each: mean and 95 % band over random splits."""
    rates = []
    splits = human_splits([person_of(c) for c in pool], n, SPLITS, rng_for(seed, f"halves {view}"))
    for index, split in enumerate(splits):
        first_scores, second_scores = humanlike(
            [pool[i] for i in split.first], [pool[i] for i in split.second], view, seed + index
        )
        rates.append(_share(first_scores[~np.isnan(first_scores)], second_scores[~np.isnan(second_scores)]))
    known_rates = np.array(rates)[~np.isnan(rates)]
    if not len(known_rates):
        return None
    low, high = np.quantile(known_rates, [0.025, 0.975])
    return Estimate(value=float(known_rates.mean()), low=float(low), high=float(high), n=n)
