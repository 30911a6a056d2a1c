"""Planted rankings: ranking of assistants with a known order under a simulated user, scored without a judge.

The scores are built to detect planted faults. They do not detect fine differences: over SimulatorArena's 101
rated sessions of people no score correlates with the rating (`usersim eval outcome simulatorarena`).

An order can be right without a user who listens, because a better assistant serves more of any words. So a user's
agreement with the planted order is read minus that of its null user (`eval.ranking.runs.Replay`). Only assistants
that serve something are ranked: telling them from the others needs no user.
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
"""coverage measures what the user obtained from the assistant; the other scores measure the user's reaction."""
Seen = Literal["as planted", "reversed", "unclear"]
LEAST_SERVED = 0.05
"""Mean coverage below which an assistant serves nothing. By chance 1 to 2 % of another conversation's facets match
(`usersim.text.facet_matching.COSINE`)."""


class PlantedPair(Record):
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
    """Ranking by one score of the assistants that serve something; intervals resample goals, the same draw for all."""

    score: ScoreName
    means: dict[str, Estimate]
    """Mean score of every planted assistant."""
    tau: Estimate | None
    """τ-b with the planted levels; None where the score is the same for all."""
    largest_tau: float
    """Largest τ-b of any ranking without ties: tied levels keep τ-b below 1."""
    agreement: Estimate
    """Share of the planted pairs whose means differ in the right direction, a tie counting half; n = goals."""
    pairs: tuple[PlantedPair, ...]
    over_null: OverNull | None = None
    """None for a null user, for the reference user (which ignores all answers), and where no goal is shared."""


class PlantedUser(Record):
    """One simulated user with all planted assistants."""

    user: str
    goals: int
    """Goals whose conversations with every assistant exist and are scored."""
    left_out: dict[str, int]
    serve_nothing: dict[str, float] = Field(default_factory=dict)
    """Assistants left out of the rankings: mean coverage over all users of the run, below `LEAST_SERVED`."""
    rankings: tuple[PlantedRanking, ...]
    effort: dict[str, Effort]
    patience: Patience | None


def score_conversation(conversation: Conversation, path: Trajectory | None) -> dict[ScoreName, float]:
    """Returns the scores of a conversation; scores that it cannot have are left out: coverage without facets,
    smoothness of one turn."""
    user_turns = [turn.text for turn in conversation.turns if turn.role == "user"]
    is_left = conversation.ended_by == "user"
    scores: dict[ScoreName, float] = {}
    if path is not None:
        scores["coverage"] = path.utility[-1]
    if user_turns:
        objects = [is_pushback(text) for text in user_turns]
        scores["contentment"] = float(is_left and not objects[-1])
        scores["brevity"] = -float(np.log2(1 + sum(len(text.split()) for text in user_turns)))
        if len(user_turns) > 1:
            scores["smoothness"] = 1 - float(np.mean(objects[1:]))
    return scores


def planted_scores(
    conversations: Mapping[str, Sequence[Conversation]], user: str, matcher: Matcher
) -> tuple[dict[ScoreName, list[Score]], dict[str, list[Trajectory]]]:
    """Returns (scores by their name, trajectories by assistant) of one user's conversations by assistant."""
    scores: dict[ScoreName, list[Score]] = {name: [] for name in SCORES}
    paths = {}
    for assistant, assistant_conversations in conversations.items():
        paths[assistant] = trajectories(assistant_conversations, matcher)
        path_of = {path.id: path for path in paths[assistant]}
        for conversation in assistant_conversations:
            for name, value in score_conversation(conversation, path_of.get(conversation.id)).items():
                scores[name].append(
                    Score(assistant=assistant, task=conversation.id, score=value, person=user)
                )
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
    """Ranks the `serving` assistants by one score, beside the ranking by a null user's scores.

    Goals that lack a score with any of the assistants are left out. Raises DataError where no goal is left.
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
    (user_agreement, user_agreement_B), (null_agreement, null_agreement_B) = values
    return OverNull(
        agreement=mean_estimate(user_agreement, user_agreement_B, len(goals)),
        null=mean_estimate(null_agreement, null_agreement_B, len(goals)),
        difference=mean_estimate(
            user_agreement - null_agreement, user_agreement_B - null_agreement_B, len(goals)
        ),
    )


def _tau(means_K: Floats, means_BK: Floats, levels_K: Floats, goals: int) -> Estimate | None:
    value = tau_b(means_K, levels_K)
    resampled_taus = tau_rows(means_BK, np.broadcast_to(levels_K, means_BK.shape))
    return None if np.isnan(value) else mean_estimate(value, resampled_taus, goals)


def _agreement(means_K: Floats, means_BK: Floats, levels_K: Floats) -> tuple[float, Floats]:
    """Returns the share of the planted pairs that the means order rightly, a tie counting half; for the data and for
    every resample."""
    better, worse = np.array(
        [(i, j) for i in range(len(levels_K)) for j in range(len(levels_K)) if levels_K[i] > levels_K[j]]
    ).T

    def share(means: Floats) -> Floats:
        return np.asarray(((np.sign(means[:, better] - means[:, worse]) + 1) / 2).mean(1))

    return float(share(means_K[None])[0]), share(means_BK)


def _pairs(names: Sequence[str], means_K: Floats, means_BK: Floats, goals: int) -> tuple[PlantedPair, ...]:
    pairs = []
    for i, j in combinations(range(len(names)), 2):
        if LEVELS[names[i]] > LEVELS[names[j]]:
            low, high = interval(means_BK[:, i] - means_BK[:, j])
            verdict: Seen = "as planted" if low > 0 else "reversed" if high < 0 else "unclear"
            gap = Estimate(value=float(means_K[i] - means_K[j]), low=low, high=high, n=goals)
            pairs.append(PlantedPair(better=names[i], worse=names[j], gap=gap, seen=verdict))
    return tuple(pairs)


JudgedUser = tuple[PlantedUser, dict[ScoreName, list[Score]]]


def judge_users(
    played: Mapping[str, Mapping[str, Sequence[Conversation]]],
    matcher: Matcher,
    *,
    nulls: Mapping[str, str] | None = None,
    bootstrap: int = 2000,
    seed: int = 0,
) -> list[JudgedUser]:
    """Returns every user's rankings, effort by assistant and patience, with their scores.

    Args:
        played: Conversations by user, then by assistant; null users are users.
        matcher: Facet matcher.
        nulls: Name of the null user by user.

    Raises:
        DataError: Fewer than two assistants of different levels serve anything, or a user met fewer.
    """
    scores = {user: planted_scores(by_assistant, user, matcher) for user, by_assistant in played.items()}
    coverage = mean_coverage(
        [score for user_scores_by_name, _ in scores.values() for score in user_scores_by_name["coverage"]]
    )
    serve_nothing = {name: share for name, share in coverage.items() if share < LEAST_SERVED}
    if len({LEVELS[name] for name in coverage.keys() - serve_nothing.keys()}) < 2:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in coverage.items())
        raise DataError(
            f"nothing to rank: two assistants of unlike level must serve {LEAST_SERVED:.0%} of the facets or more; "
            f"mean coverage: {shares or 'none, no goal has conversations with facets and replies'}"
        )
    judged_users = []
    for user, (user_scores, paths) in scores.items():
        null = scores[nulls[user]][0] if nulls and user in nulls else None
        report = _judge(user, user_scores, paths, serve_nothing, null, bootstrap=bootstrap, seed=seed)
        judged_users.append((report, user_scores))
    return judged_users


def mean_coverage(scores: Sequence[Score]) -> dict[str, float]:
    """Returns mean coverage by assistant in the order of `LEVELS`."""
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
    for name, named_scores in scores.items():
        try:
            null_scores = null[name] if null else ()
            rankings.append(
                rank_planted(
                    named_scores, name, serving=serving, null=null_scores, bootstrap=bootstrap, seed=seed
                )
            )
        except DataError:
            left_out[f"{name}: not scored with every assistant"] = len(named_scores)
    if not rankings:
        raise DataError(f"{user}: no goal has conversations with two or more of the planted assistants")
    complete_paths = [path for path_list in paths.values() for path in path_list if path.left is not None]
    return PlantedUser(
        user=user,
        goals=max(ranking.agreement.n for ranking in rankings),
        left_out=left_out,
        serve_nothing=serve_nothing,
        rankings=tuple(rankings),
        effort={
            name: measure_effort(path_list, bootstrap=min(bootstrap, 1000), seed=seed)
            for name, path_list in paths.items()
            if path_list
        },
        patience=fit_patience(complete_paths, bootstrap=min(bootstrap, 500), seed=seed)
        if complete_paths
        else None,
    )
