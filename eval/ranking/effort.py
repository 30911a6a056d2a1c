"""What the user puts in against what comes out: effort curves, gain, usability drop.

Definitions of Collaborative Effort Scaling (Completion ≠ Collaboration, 2025): effort is the number of user
messages, utility the score of what there is after each. Here utility is the share of the hidden goal's facets
that the replies have served so far, and steps are rated by the rule of `rate`, unless both come from a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, interval, resamples, rng_for
from usersim.storage.records import read_records
from usersim.text.facet_matching import Bools, Matcher, facets_of, served_tables
from usersim.text.style import words
from usersim.text.user_acts import is_pushback
from usersim.types import Conversation, NonEmpty, Record

WORD_BUDGETS = (5, 10, 20, 40, 80, 160, 320)
BAD = 3
"""A step rated below this one is bad."""
MISSING = 5
"""The rating of a step that nobody rated: it is never bad."""
PATIENCE = (1, 2, 3)


class Judged(Record):
    """One line of a ratings file: what a judge, or the task's own score, says about a conversation."""

    id: NonEmpty
    ratings: tuple[int | None, ...] | None = None
    """1 to 5 for every reply; None where the judge did not answer."""
    utility: tuple[float, ...] | None = None
    """Of what there is after every reply."""


class Trajectory(Record):
    """A conversation as steps: a user message and the reply to it."""

    id: str
    words: tuple[int, ...]
    """User words up to and with each step."""
    utility: tuple[float, ...]
    ratings: tuple[int, ...]
    left: bool | None
    """The user left after the last step; None where something else ended the conversation."""


class Effort(Record):
    conversations: int
    messages: Estimate
    user_words: Estimate
    first: Estimate
    """Utility after the first step."""
    final: Estimate
    best: Estimate
    """Largest utility on the way; of a noisy score it is too high, of facets served it is the final one."""
    gain: Estimate
    """best - first."""
    relative_gain: Estimate | None
    """Mean gain / mean first utility; None where nothing is served at first."""
    by_message: tuple[Estimate, ...]
    """Utility after 1, 2, … messages; a conversation that is over keeps its last value."""
    by_words: tuple[Estimate, ...]
    """Utility of the last step within `WORD_BUDGETS` user words, 0 before the first."""
    drop: tuple[Estimate, ...]
    """Usability drop for a user with patience 1, 2, 3: change of mean utility when the session is cut before so
    many bad steps in a row; 0 or below for served facets."""


def rate(served_FR: Bools, objects_R: Sequence[bool]) -> list[int]:
    """1 to 5 a reply: 5 all facets served, 4 a new one served, 2 none, 1 none and the user then objects."""
    before = np.zeros(len(served_FR), dtype=np.bool_)
    ratings = []
    for now, objects in zip(served_FR.T, objects_R, strict=True):
        ratings.append(5 if now.all() else 4 if (now & ~before).any() else 1 if objects else 2)
        before = now
    return ratings


def trajectories(
    conversations: Sequence[Conversation],
    matcher: Matcher,
    judged: Mapping[str, Judged] | None = None,
) -> list[Trajectory]:
    """Of the conversations with a facet or a judge's utility, and a reply to a user. The others are left out."""
    tables = served_tables(conversations, matcher)
    made = (
        _trajectory(conversation, table, (judged or {}).get(conversation.id))
        for conversation, table in zip(conversations, tables, strict=True)
    )
    return [one for one in made if one is not None]


def _trajectory(conversation: Conversation, served_FR: Bools, judged: Judged | None) -> Trajectory | None:
    turns = conversation.turns
    greeting = bool(turns) and turns[0].role == "assistant"
    places = [i for i, turn in enumerate(turns) if turn.role == "assistant"][greeting:]
    served = served_FR[:, int(greeting) :]
    given = judged.utility if judged else None
    if not places or not (facets_of(conversation) or given):
        return None
    objects = [i + 1 < len(turns) and is_pushback(turns[i + 1].text) for i in places]
    ratings = [MISSING if r is None else r for r in judged.ratings] if judged and judged.ratings else None
    utility = list(given) if given else [float(share) for share in served.mean(axis=0)]
    ratings = ratings or (rate(served, objects) if len(served) else [MISSING] * len(places))
    if not len(utility) == len(ratings) == len(places):
        raise DataError(f"{conversation.id}: {len(places)} replies, but not as many ratings or utilities")
    said = [len(words(turns[i - 1].text)) for i in places]
    ended_here = places[-1] == len(turns) - 1
    return Trajectory(
        id=conversation.id,
        words=tuple(int(count) for count in np.cumsum(said)),
        utility=tuple(utility),
        ratings=tuple(ratings),
        left=conversation.ended_by == "user" if ended_here and conversation.ended_by != "unknown" else None,
    )


def read_judged(path: str | Path) -> dict[str, Judged]:
    return {one.id: one for one in read_records(path, Judged)}


def kept_steps(ratings: Sequence[int], patience: int) -> int:
    """Steps before the first run of `patience` bad ones; all of them where there is none."""
    run = 0
    for place, rating in enumerate(ratings):
        run = run + 1 if rating < BAD else 0
        if run == patience:
            return place + 1 - patience
    return len(ratings)


def measure_effort(found: Sequence[Trajectory], *, bootstrap: int = 1000, seed: int = 0) -> Effort:
    """Means over conversations with percentile intervals. Curves end at the 95th percentile of the lengths."""
    if not found:
        raise DataError("no conversation with facets of a goal and a reply: nothing to measure effort on")
    counts = resamples(len(found), bootstrap, rng_for(seed, "effort")) / len(found)

    def mean(value: Callable[[Trajectory], float]) -> Estimate:
        values = np.array([value(one) for one in found], dtype=np.float64)
        low, high = interval(counts @ values)
        return Estimate(value=float(values.mean()), low=low, high=high, n=len(found))

    longest = int(np.quantile([len(one.words) for one in found], 0.95, method="higher"))
    return Effort(
        conversations=len(found),
        messages=mean(lambda t: len(t.words)),
        user_words=mean(lambda t: t.words[-1]),
        first=mean(lambda t: t.utility[0]),
        final=mean(lambda t: t.utility[-1]),
        best=mean(lambda t: max(t.utility)),
        gain=mean(lambda t: max(t.utility) - t.utility[0]),
        relative_gain=_relative_gain(found, counts),
        by_message=tuple(mean(lambda t, s=step: _after(t, s)) for step in range(1, longest + 1)),  # type: ignore[misc]
        by_words=tuple(mean(lambda t, b=budget: _within(t, b)) for budget in WORD_BUDGETS),  # type: ignore[misc]
        drop=tuple(mean(lambda t, n=n: _drop(t, n)) for n in PATIENCE),  # type: ignore[misc]
    )


def _after(one: Trajectory, steps: int) -> float:
    return one.utility[min(steps, len(one.utility)) - 1] if steps else 0.0


def _within(one: Trajectory, budget: int) -> float:
    return _after(one, sum(spent <= budget for spent in one.words))


def _drop(one: Trajectory, patience: int) -> float:
    return _after(one, kept_steps(one.ratings, patience)) - one.utility[-1]


def _relative_gain(found: Sequence[Trajectory], counts_BN: Floats) -> Estimate | None:
    first = np.array([one.utility[0] for one in found])
    gain = np.array([max(one.utility) for one in found]) - first
    below = counts_BN @ first
    if first.sum() <= 0 or (below <= 0).any():
        return None
    low, high = interval((counts_BN @ gain) / below)
    return Estimate(value=float(gain.sum() / first.sum()), low=low, high=high, n=len(found))
