"""Naturalness without a detector: how many of a simulator's texts would pass for a person's.

The paper asks a commercial detector (Pangram) for P(human) of first turns of 50 to 200 tokens; people score 90 there.
Ours is a stand-in: the text classifier of the two-sample test (character n-grams,
`eval.fidelity.metrics.texts.classifier`) is trained on this simulator against these people, out of fold, and
its threshold put where nine of ten people pass. It
knows the simulator, so it is stricter than a detector that never saw it, and its scores are not those of the paper.
The human reference is what people score against other people at the same n: about 0.9. A simulator that always says
the same cannot be scored out of fold and is left out; diversity sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from eval.fidelity.metrics.texts.classifier import Classifier
from eval.fidelity.samples.features import Sample
from eval.fidelity.samples.matching import person_of
from eval.papers.userlm.metric_rows import Row, Value
from eval.papers.userlm.wording import Side
from usersim.stats.estimates import Estimate, Floats, human_splits, rng_for
from usersim.types import Conversation

View = Literal["openings", "all user turns"]
VIEWS: tuple[View, ...] = ("openings", "all user turns")
PASS = 0.9
SPLITS = 20
LEAST_SCORED = 0.5
"""Share of a side that must have an out-of-fold score."""


def naturalness(side: Side, people: Side, pool: Sequence[Conversation], view: View, seed: int) -> Row | None:
    """Share of the simulator's texts above the threshold that nine of ten people pass. Halves of `pool` give the
    reference; each must hold as many as a side. None where too little could be scored out of fold."""
    ours, theirs = humanlike(side.conversations, people.conversations, view, seed)
    found = pass_rate(ours, theirs, side.counts_BN, people.counts_BN)
    if found is None:
        return None
    value, reference = found.estimate, human_reference(pool, len(people.conversations), view, seed)
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
    """Their difference, the two intervals added: too wide rather than too narrow."""
    return Estimate(
        value=value.value - reference.value,
        low=value.low - reference.high,
        high=value.high - reference.low,
        n=value.n,
    )


def humanlike(
    simulated: Sequence[Conversation], human: Sequence[Conversation], view: View, seed: int
) -> tuple[Floats, Floats]:
    """Out-of-fold scores of both sides, the higher the more human; NaN where one could not be scored."""
    ours, theirs = (Sample.of([_seen(c, view) for c in side]) for side in (simulated, human))
    positive, negative = Classifier("text", seed=seed).scores(ours, theirs, theirs)
    return -positive, -negative


def _seen(conversation: Conversation, view: View) -> Conversation:
    if view == "all user turns":
        return conversation
    first = next(turn for turn in conversation.turns if turn.role == "user")
    return conversation.model_copy(update={"turns": (first,)})


def pass_rate(ours: Floats, theirs: Floats, ours_BN: Floats, theirs_BN: Floats) -> Value | None:
    """Share of `ours` not below the 10 % quantile of `theirs`; the threshold is resampled too. Scores of NaN are
    left out; None where they are more than half of a side."""
    known_o, known_t = ~np.isnan(ours), ~np.isnan(theirs)
    if min(known_o.mean(), known_t.mean()) < LEAST_SCORED:
        return None
    ours, theirs, ours_BN, theirs_BN = (
        ours[known_o],
        theirs[known_t],
        ours_BN[:, known_o],
        theirs_BN[:, known_t],
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
    """The same between halves of `n` people each: mean and 95 % band over random splits."""
    rates = []
    splits = human_splits([person_of(c) for c in pool], n, SPLITS, rng_for(seed, f"halves {view}"))
    for index, split in enumerate(splits):
        ours, theirs = humanlike(
            [pool[i] for i in split.first], [pool[i] for i in split.second], view, seed + index
        )
        rates.append(_share(ours[~np.isnan(ours)], theirs[~np.isnan(theirs)]))
    known = np.array(rates)[~np.isnan(rates)]
    if not len(known):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(value=float(known.mean()), low=float(low), high=float(high), n=n)
