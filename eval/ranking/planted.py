"""Does a simulated user rank assistants whose order is known? Scores without a judge, read against the truth.

The scores are made to see faults that were planted. Fine differences are beyond them: over SimulatorArena's 101 rated
sessions of people none goes with the rating (`usersim eval outcome simulatorarena`).

An order can come out right without a user who listens: a better assistant serves more of any words. So a user's
agreement with the planted order is read minus that of its null (`eval.ranking.runs.Replay`), and over the assistants
that serve something: to tell those from the others takes no user either.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from pydantic import Field

from eval.ranking.assistants import LEVELS
from eval.ranking.effort import Effort, Trajectory, measure_effort, trajectories
from eval.ranking.patience import Patience, fit_patience
from eval.ranking.ranking import tau_b, tau_rows
from eval.ranking.scores import Score, mean_estimate
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, Floats, interval, resamples, rng_for
from usersim.text.facet_matching import Matcher
from usersim.text.user_acts import is_pushback
from usersim.types import Conversation, Record

ScoreName = Literal["coverage", "contentment", "smoothness", "brevity"]
SCORES: dict[ScoreName, str] = {
    "coverage": "share of the goal's facets that the replies serve by the end",
    "contentment": "1 where the user left by itself, not over an objection, else 0",
    "smoothness": "share of the user's turns after the first that do not object",
    "brevity": "-log2(1 + user words): less effort is better",
}
"""coverage is about what the user drew out of the assistant; the others are about how the user took it."""
Seen = Literal["as planted", "reversed", "unclear"]
LEAST_SERVED = 0.05
"""Mean coverage below which an assistant serves nothing: by chance 1 to 2 % of another conversation's facets are
matched (`usersim.text.facet_matching.COSINE`)."""


class Pair(Record):
    better: str
    worse: str
    gap: Estimate
    """Mean score of the better minus that of the worse over the same goals; n = goals."""
    seen: Seen


class OverNull(Record):
    """Agreement with the planted order beside that of the null user, over the goals that both have."""

    agreement: Estimate
    null: Estimate
    difference: Estimate
    """agreement - null; goals are resampled for both at once."""


class PlantedRanking(Record):
    """One score's ranking of the assistants that serve something; intervals resample goals, the same draw for all."""

    score: ScoreName
    means: dict[str, Estimate]
    """Of all planted assistants."""
    tau: Estimate | None
    """τ-b with the planted levels; None where the score is the same for all."""
    largest_tau: float
    """Of any ranking without ties: levels that tie keep τ-b below 1."""
    agreement: Estimate
    """Share of the planted pairs whose means differ the right way, a tie counting half; n = goals."""
    pairs: tuple[Pair, ...]
    over_null: OverNull | None = None
    """None for a null user, for one that listens to nobody by itself, and where no goal is shared."""


class PlantedUser(Record):
    """One simulated user against all planted assistants."""

    user: str
    goals: int
    """Those whose conversations with every assistant are there and scored."""
    left_out: dict[str, int]
    serve_nothing: dict[str, float] = Field(default_factory=dict)
    """Assistants left out of the rankings: mean coverage over all users of the run, below `LEAST_SERVED`."""
    rankings: tuple[PlantedRanking, ...]
    effort: dict[str, Effort]
    patience: Patience | None


def score_conversation(conversation: Conversation, path: Trajectory | None) -> dict[ScoreName, float]:
    """A score that the conversation cannot have is left out: coverage without facets, smoothness of one turn."""
    said = [turn.text for turn in conversation.turns if turn.role == "user"]
    left = conversation.ended_by == "user"
    found: dict[ScoreName, float] = {}
    if path is not None:
        found["coverage"] = path.utility[-1]
    if said:
        objects = [is_pushback(text) for text in said]
        found["contentment"] = float(left and not objects[-1])
        found["brevity"] = -float(np.log2(1 + sum(len(text.split()) for text in said)))
        if len(said) > 1:
            found["smoothness"] = 1 - float(np.mean(objects[1:]))
    return found


def planted_scores(
    conversations: Mapping[str, Sequence[Conversation]], user: str, matcher: Matcher
) -> tuple[dict[ScoreName, list[Score]], dict[str, list[Trajectory]]]:
    """(scores by their name, trajectories by assistant) of one user's conversations by assistant."""
    scores: dict[ScoreName, list[Score]] = {name: [] for name in SCORES}
    paths = {}
    for assistant, made in conversations.items():
        paths[assistant] = trajectories(made, matcher)
        path_of = {path.id: path for path in paths[assistant]}
        for one in made:
            for name, value in score_conversation(one, path_of.get(one.id)).items():
                scores[name].append(Score(assistant=assistant, task=one.id, score=value, person=user))
    return scores, paths


def rank_planted(
    scores: Sequence[Score],
    name: ScoreName,
    *,
    serving: Collection[str] = tuple(LEVELS),
    null: Sequence[Score] = (),
    bootstrap: int = 2000,
    seed: int = 0,
) -> PlantedRanking:
    """Ranking of the `serving` assistants by one score, beside the ranking by a null user's scores.

    Goals that lack a score with any of the assistants are left out. Raises DataError where none is left.
    """
    table = _by_assistant(scores)
    names = [assistant for assistant in LEVELS if assistant in table]
    ranked = [k for k, assistant in enumerate(names) if assistant in serving]
    if table.keys() - LEVELS.keys() or len({LEVELS[names[k]] for k in ranked}) < 2:
        raise DataError(
            f"planted assistants are {', '.join(LEVELS)}; two of unlike level that serve something, got {sorted(table)}"
        )
    goals = _shared_goals([table[assistant] for assistant in names])
    if not goals:
        raise DataError(f"{name}: no goal is scored with all of {', '.join(names)}")
    values_KT = np.array([[table[assistant][goal] for goal in goals] for assistant in names])
    counts = resamples(len(goals), bootstrap, rng_for(seed, f"planted {name}")) / len(goals)
    means_K, means_BK = values_KT.mean(1), counts @ values_KT.T
    levels = np.array([LEVELS[names[k]] for k in ranked], dtype=np.float64)
    agreement, agreements_B = _agreement(means_K[ranked], means_BK[:, ranked], levels)
    return PlantedRanking(
        score=name,
        means={
            assistant: mean_estimate(float(means_K[k]), means_BK[:, k], len(goals))
            for k, assistant in enumerate(names)
        },
        tau=_tau(means_K[ranked], means_BK[:, ranked], levels, len(goals)),
        largest_tau=tau_b(np.arange(len(ranked)) + 10 * levels, levels),
        agreement=mean_estimate(agreement, agreements_B, len(goals)),
        pairs=_pairs([names[k] for k in ranked], means_K[ranked], means_BK[:, ranked], len(goals)),
        over_null=_over_null(table, _by_assistant(null), [names[k] for k in ranked], bootstrap, seed),
    )


def _by_assistant(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for score in scores:
        table.setdefault(score.assistant, {})[score.task] = score.score
    return table


def _shared_goals(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return sorted(set.intersection(*map(set, rows)))


def _over_null(
    table: Mapping[str, Mapping[str, float]],
    null: Mapping[str, Mapping[str, float]],
    names: Sequence[str],
    bootstrap: int,
    seed: int,
) -> OverNull | None:
    if not set(names) <= null.keys():
        return None
    goals = _shared_goals([side[name] for side in (table, null) for name in names])
    if not goals:
        return None
    counts = resamples(len(goals), bootstrap, rng_for(seed, "planted null")) / len(goals)
    levels = np.array([LEVELS[name] for name in names], dtype=np.float64)
    values = []
    for side in (table, null):
        scores_KT = np.array([[side[name][goal] for goal in goals] for name in names])
        values.append(_agreement(scores_KT.mean(1), counts @ scores_KT.T, levels))
    (own, own_B), (blind, blind_B) = values
    return OverNull(
        agreement=mean_estimate(own, own_B, len(goals)),
        null=mean_estimate(blind, blind_B, len(goals)),
        difference=mean_estimate(own - blind, own_B - blind_B, len(goals)),
    )


def _tau(means_K: Floats, means_BK: Floats, levels_K: Floats, goals: int) -> Estimate | None:
    value = tau_b(means_K, levels_K)
    drawn = tau_rows(means_BK, np.broadcast_to(levels_K, means_BK.shape))
    return None if np.isnan(value) else mean_estimate(value, drawn, goals)


def _agreement(means_K: Floats, means_BK: Floats, levels_K: Floats) -> tuple[float, Floats]:
    """Share of the planted pairs that the means order rightly, a tie counting half; and on every resample."""
    better, worse = np.array(
        [(i, j) for i in range(len(levels_K)) for j in range(len(levels_K)) if levels_K[i] > levels_K[j]]
    ).T

    def share(means: Floats) -> Floats:
        return np.asarray(((np.sign(means[:, better] - means[:, worse]) + 1) / 2).mean(1))

    return float(share(means_K[None])[0]), share(means_BK)


def _pairs(names: Sequence[str], means_K: Floats, means_BK: Floats, goals: int) -> tuple[Pair, ...]:
    found = []
    for i, j in combinations(range(len(names)), 2):
        if LEVELS[names[i]] > LEVELS[names[j]]:
            low, high = interval(means_BK[:, i] - means_BK[:, j])
            seen: Seen = "as planted" if low > 0 else "reversed" if high < 0 else "unclear"
            gap = Estimate(value=float(means_K[i] - means_K[j]), low=low, high=high, n=goals)
            found.append(Pair(better=names[i], worse=names[j], gap=gap, seen=seen))
    return tuple(found)


Judged = tuple[PlantedUser, dict[ScoreName, list[Score]]]


def judge_users(
    played: Mapping[str, Mapping[str, Sequence[Conversation]]],
    matcher: Matcher,
    *,
    nulls: Mapping[str, str] | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
) -> list[Judged]:
    """Every user's rankings, effort by assistant and patience, with the scores behind them.

    Args:
        played: Conversations by user, then by assistant; null users are users.
        matcher: Which sentences serve a facet.
        nulls: Name of the null user by user.

    Raises:
        DataError: Fewer than two assistants of unlike level serve anything, or a user met fewer.
    """
    scores = {user: planted_scores(made, user, matcher) for user, made in played.items()}
    coverage = mean_coverage([score for one, _ in scores.values() for score in one["coverage"]])
    serve_nothing = {name: share for name, share in coverage.items() if share < LEAST_SERVED}
    if len({LEVELS[name] for name in coverage.keys() - serve_nothing.keys()}) < 2:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in coverage.items())
        raise DataError(
            f"nothing to rank: two assistants of unlike level must serve {LEAST_SERVED:.0%} of the facets or more; "
            f"mean coverage: {shares or 'none, no goal has conversations with facets and replies'}"
        )
    judged = []
    for user, (own, paths) in scores.items():
        null = scores[nulls[user]][0] if nulls and user in nulls else None
        report = _judge(user, own, paths, serve_nothing, null, bootstrap=bootstrap, seed=seed)
        judged.append((report, own))
    return judged


def mean_coverage(scores: Sequence[Score]) -> dict[str, float]:
    """By assistant in the order of `LEVELS`."""
    table: dict[str, list[float]] = {}
    for score in scores:
        table.setdefault(score.assistant, []).append(score.score)
    return {name: float(np.mean(table[name])) for name in LEVELS if name in table}


def _judge(
    user: str,
    scores: Mapping[ScoreName, Sequence[Score]],
    paths: Mapping[str, Sequence[Trajectory]],
    serve_nothing: dict[str, float],
    null: Mapping[ScoreName, Sequence[Score]] | None,
    *,
    bootstrap: int,
    seed: int,
) -> PlantedUser:
    serving = LEVELS.keys() - serve_nothing.keys()
    rankings, left_out = [], dict[str, int]()
    for name, own in scores.items():
        try:
            blind = null[name] if null else ()
            rankings.append(
                rank_planted(own, name, serving=serving, null=blind, bootstrap=bootstrap, seed=seed)
            )
        except DataError:
            left_out[f"{name}: not scored with every assistant"] = len(own)
    if not rankings:
        raise DataError(f"{user}: no goal has conversations with two or more of the planted assistants")
    known = [path for found in paths.values() for path in found if path.left is not None]
    return PlantedUser(
        user=user,
        goals=max(ranking.agreement.n for ranking in rankings),
        left_out=left_out,
        serve_nothing=serve_nothing,
        rankings=tuple(rankings),
        effort={
            name: measure_effort(found, bootstrap=min(bootstrap, 1000), seed=seed)
            for name, found in paths.items()
            if found
        },
        patience=fit_patience(known, bootstrap=min(bootstrap, 500), seed=seed) if known else None,
    )
