"""User effort against utility: effort curves, gain, usability drop.

Definitions follow Collaborative Effort Scaling (Completion ≠ Collaboration, 2025). Effort is the number of user
messages, utility the score of the result after each. Here utility is the share of the hidden goal's facets that
the replies have served so far, and `rate` rates the steps by a rule, unless a judge gives both.
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
"""A step with a lower rating is bad."""
NO_RATING = 5
"""Rating of a step without one: it is never bad."""
PATIENCE = (1, 2, 3)


class Judgement(Record):
    """Line of a ratings file: what a judge, or the task's own score, says about a conversation."""

    id: NonEmpty
    ratings: tuple[int | None, ...] | None = None
    """1 to 5 for every reply; None where the judge did not answer."""
    utility: tuple[float, ...] | None = None
    """Utility after every reply."""


class Trajectory(Record):
    """A conversation as steps: a user message and the reply to it."""

    id: str
    words: tuple[int, ...]
    """User words up to and including each step."""
    utility: tuple[float, ...]
    ratings: tuple[int, ...]
    left: bool | None
    """True: the user left after the last step. None: something else ended the conversation."""


class Effort(Record):
    conversations: int
    messages: Estimate
    user_words: Estimate
    first: Estimate
    """Utility after the first step."""
    final: Estimate
    best: Estimate
    """Largest utility on the way. Of a noisy score it is too high; of facets served it equals the final one."""
    gain: Estimate
    """best - first."""
    relative_gain: Estimate | None
    """Mean gain / mean first utility; None where the first utility is 0."""
    by_message: tuple[Estimate, ...]
    """Utility after 1, 2, … messages; a conversation that is over keeps its last value."""
    by_words: tuple[Estimate, ...]
    """Utility of the last step within `WORD_BUDGETS` user words, 0 before the first."""
    drop: tuple[Estimate, ...]
    """Usability drop for a user with patience 1, 2, 3: change of mean utility when the session is cut before as many
    bad steps in a row. It is 0 or below for served facets."""


def rate(served_FR: Bools, objects_R: Sequence[bool]) -> list[int]:
    """Rates each reply: 5 all facets served, 4 a new one served, 2 none, 1 none and the user then objects."""
    served_before = np.zeros(len(served_FR), dtype=np.bool_)
    ratings = []
    for served_now, objects in zip(served_FR.T, objects_R, strict=True):
        ratings.append(
            5 if served_now.all() else 4 if (served_now & ~served_before).any() else 1 if objects else 2
        )
        served_before = served_now
    return ratings


def trajectories(
    conversations: Sequence[Conversation],
    matcher: Matcher,
    judgements: Mapping[str, Judgement] | None = None,
) -> list[Trajectory]:
    """Returns trajectories of the conversations with a facet or a judged utility, and a reply to a user; the others
    are left out."""
    tables = served_tables(conversations, matcher)
    trajectory_or_none = (
        _trajectory(conversation, table, (judgements or {}).get(conversation.id))
        for conversation, table in zip(conversations, tables, strict=True)
    )
    return [trajectory for trajectory in trajectory_or_none if trajectory is not None]


def _trajectory(
    conversation: Conversation, served_FR: Bools, judgement: Judgement | None
) -> Trajectory | None:
    turns = conversation.turns
    has_greeting = bool(turns) and turns[0].role == "assistant"
    reply_indices = [i for i, turn in enumerate(turns) if turn.role == "assistant"][has_greeting:]
    served = served_FR[:, int(has_greeting) :]
    judged_utility = judgement.utility if judgement else None
    if not reply_indices or not (facets_of(conversation) or judged_utility):
        return None
    objects = [i + 1 < len(turns) and is_pushback(turns[i + 1].text) for i in reply_indices]
    ratings = (
        [NO_RATING if r is None else r for r in judgement.ratings]
        if judgement and judgement.ratings
        else None
    )
    utility = list(judged_utility) if judged_utility else [float(share) for share in served.mean(axis=0)]
    ratings = ratings or (rate(served, objects) if len(served) else [NO_RATING] * len(reply_indices))
    if not len(utility) == len(ratings) == len(reply_indices):
        raise DataError(
            f"{conversation.id}: {len(reply_indices)} replies, but not as many ratings or utilities"
        )
    turn_words = [len(words(turns[i - 1].text)) for i in reply_indices]
    ended_here = reply_indices[-1] == len(turns) - 1
    return Trajectory(
        id=conversation.id,
        words=tuple(int(count) for count in np.cumsum(turn_words)),
        utility=tuple(utility),
        ratings=tuple(ratings),
        left=conversation.ended_by == "user" if ended_here and conversation.ended_by != "unknown" else None,
    )


def read_judgements(path: str | Path) -> dict[str, Judgement]:
    return {judgement.id: judgement for judgement in read_records(path, Judgement)}


def kept_steps(ratings: Sequence[int], patience: int) -> int:
    """Returns the steps before the first run of `patience` bad ones; all steps where there is none."""
    run = 0
    for index, rating in enumerate(ratings):
        run = run + 1 if rating < BAD else 0
        if run == patience:
            return index + 1 - patience
    return len(ratings)


def measure_effort(paths: Sequence[Trajectory], *, bootstrap: int = 1000, seed: int = 0) -> Effort:
    """Returns means over conversations with percentile intervals. Curves end at the 95th percentile of the lengths."""
    if not paths:
        raise DataError("no conversation with facets of a goal and a reply: nothing to measure effort on")
    counts = resamples(len(paths), bootstrap, rng_for(seed, "effort")) / len(paths)

    def mean(value: Callable[[Trajectory], float]) -> Estimate:
        values = np.array([value(path) for path in paths], dtype=np.float64)
        low, high = interval(counts @ values)
        return Estimate(value=float(values.mean()), low=low, high=high, n=len(paths))

    longest = int(np.quantile([len(path.words) for path in paths], 0.95, method="higher"))
    return Effort(
        conversations=len(paths),
        messages=mean(lambda t: len(t.words)),
        user_words=mean(lambda t: t.words[-1]),
        first=mean(lambda t: t.utility[0]),
        final=mean(lambda t: t.utility[-1]),
        best=mean(lambda t: max(t.utility)),
        gain=mean(lambda t: max(t.utility) - t.utility[0]),
        relative_gain=_relative_gain(paths, counts),
        by_message=tuple(mean(lambda t, s=step: _after(t, s)) for step in range(1, longest + 1)),  # type: ignore[misc]
        by_words=tuple(mean(lambda t, b=budget: _within(t, b)) for budget in WORD_BUDGETS),  # type: ignore[misc]
        drop=tuple(mean(lambda t, n=n: _drop(t, n)) for n in PATIENCE),  # type: ignore[misc]
    )


def _after(path: Trajectory, steps: int) -> float:
    return path.utility[min(steps, len(path.utility)) - 1] if steps else 0.0


def _within(path: Trajectory, budget: int) -> float:
    return _after(path, sum(words_so_far <= budget for words_so_far in path.words))


def _drop(path: Trajectory, patience: int) -> float:
    return _after(path, kept_steps(path.ratings, patience)) - path.utility[-1]


def _relative_gain(paths: Sequence[Trajectory], counts_BN: Floats) -> Estimate | None:
    first = np.array([path.utility[0] for path in paths])
    gain = np.array([max(path.utility) for path in paths]) - first
    below = counts_BN @ first
    if first.sum() <= 0 or (below <= 0).any():
        return None
    low, high = interval((counts_BN @ gain) / below)
    return Estimate(value=float(gain.sum() / first.sum()), low=low, high=high, n=len(paths))
