"""SimulatorArena's benchmarking subset: what 101 rated sessions of people with 9 assistants can show."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped]

from eval.ranking.effort import trajectories
from eval.ranking.planted import SCORES, ScoreName, score_conversation
from eval.ranking.reliability import (
    Ceiling,
    Components,
    Power,
    components,
    human_ceiling,
    least_significant_tau,
    pairs_apart,
    power,
    scores_needed,
    tau_interval,
)
from eval.ranking.scores import Score, ScoreTable, mean_estimate
from usersim.errors import DataError
from usersim.stats.estimates import Estimate, cluster_resamples, rng_for
from usersim.text.facet_matching import Matcher
from usersim.types import Conversation, Facet, Goal, Record, Turn, UserProfile

GroupName = Literal["documents", "maths", "both"]
FILES: dict[GroupName, str] = {
    "documents": "document_creation_annotations_for_benchmarking.json",
    "maths": "math_tutoring_annotations_redacted_for_benchmarking.json",
}
RATING = {"documents": "overall_interaction_rating", "maths": "overall_rating"}
SAME_MODEL = {"mistral-large-2407": "mistral-large", "mistral-large-latest": "mistral-large"}
"""Models with different names in the two halves of the study."""
LEAST_OTHERS = 5
"""Sessions whose score by rule differs from the most common one; with fewer there is no correlation to measure."""
TAUS = (0.0, 0.3, 0.6, 0.8)


class Session(Record):
    group: GroupName
    score: Score
    """Its score is the person's rating of the whole, 1 to 10."""
    conversation: Conversation


class ArenaGroup(Record):
    name: GroupName
    """both: ratings minus the mean of their half of the study."""
    sessions: int
    people: int
    assistants: dict[str, Estimate]
    """Mean rating, best first; n = sessions."""
    components: Components | None
    """None where no assistant has two ratings that differ."""
    ceiling: Ceiling | None
    pairs: int
    apart: int
    """Pairs of assistants that differ at 5 % after Holm."""
    needed: tuple[float | None, float | None, float | None]
    """Sessions per assistant for an expected τ of .8 between two studies, at the low end of the ICC's interval, at
    its value and at its high end. None where the ICC is not above 0."""
    power: tuple[Power, ...]
    """Power of two studies of people, by sessions per assistant, if the assistants are as different as `components`
    says."""


class RuleCheck(Record):
    """Correlation of a score by rule with people's ratings over sessions."""

    group: GroupName
    score: ScoreName
    rho: Estimate
    """Spearman; resamples people."""


class ArenaReport(Record):
    groups: tuple[ArenaGroup, ...]
    assistants: int
    least_significant_tau: float | None
    """Smallest τ between two rankings of so many assistants that is significant at 5 %."""
    tau_intervals: dict[str, tuple[float, float]]
    """95 % interval of an observed τ over this number of assistants, for any number of sessions per mean."""
    checks: tuple[RuleCheck, ...]


def read_sessions(folder: str | Path) -> list[Session]:
    """Reads the sessions. Raises DataError that names a file that is missing or differs from SimulatorArena's
    publication."""
    return [
        _session(group, number, row, Path(folder) / name)
        for group, name in FILES.items()
        for number, row in enumerate(_rows(Path(folder) / name))
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read; give the folder of SimulatorArena's data ({error})"
        ) from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: needs a list of annotated sessions")
    return rows


def _session(group: GroupName, number: int, row: dict[str, Any], path: Path) -> Session:
    try:
        task = row["intent"].split(":")[0] if group == "documents" else row["problem_id"]
        return Session(
            group=group,
            score=Score(
                assistant=SAME_MODEL.get(row["model"], row["model"]),
                task=f"{group}: {task}",
                score=float(row[RATING[group]]),
                person=hashlib.sha256(row["workerId"].encode()).hexdigest()[:12],
            ),
            conversation=_conversation(f"simulatorarena-{group}-{number}", row),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: session {number} is not as published ({error!r})") from error


def _conversation(name: str, row: dict[str, Any]) -> Conversation:
    turns = []
    for query, reply in zip(row["user_queries"], row["ai_responses"], strict=False):
        turns += [Turn(role="user", text=_text(query)), Turn(role="assistant", text=_text(reply))]
    facets = [Facet(text=text) for text in row.get("bullet_points_responses", ()) if text.strip()]
    goal = Goal(summary=row["intent"], facets=tuple(facets)) if "intent" in row else None
    return Conversation(
        id=name,
        origin="human",
        source="simulatorarena",
        turns=tuple(turns),
        profile=UserProfile(goal=goal),
        ended_by="user",
    )


def _text(query: object) -> str:
    """Returns the text of a query; an uploaded picture is a list of file names."""
    return query if isinstance(query, str) else "[file]"


def arena_report(
    sessions: Sequence[Session],
    matcher: Matcher,
    *,
    bootstrap: int = 2000,
    splits: int = 1000,
    seed: int = 0,
) -> ArenaReport:
    by_group: dict[GroupName, list[Session]] = {
        group: [s for s in sessions if s.group == group] for group in FILES
    }
    centred = [
        score for group_sessions in by_group.values() for score in centre([s.score for s in group_sessions])
    ]
    scores = {group: [s.score for s in group_sessions] for group, group_sessions in by_group.items()} | {
        "both": centred
    }
    k = len({score.assistant for score in centred})
    return ArenaReport(
        groups=tuple(
            _group(name, group_sessions, bootstrap=bootstrap, splits=splits, seed=seed)
            for name, group_sessions in scores.items()
        ),
        assistants=k,
        least_significant_tau=least_significant_tau(k),
        tau_intervals={f"{tau:g}": tau_interval(tau, k) for tau in TAUS if k > 4},
        checks=tuple(
            check
            for group, group_sessions in by_group.items()
            for check in _checks(group, group_sessions, matcher, bootstrap=bootstrap, seed=seed)
        ),
    )


def centre(scores: Sequence[Score]) -> list[Score]:
    """Subtracts the mean, so that scores on different scales can be pooled."""
    mean = float(np.mean([score.score for score in scores]))
    return [score.model_copy(update={"score": score.score - mean}) for score in scores]


def _group(name: GroupName, scores: Sequence[Score], *, bootstrap: int, splits: int, seed: int) -> ArenaGroup:
    names, tasks = sorted({s.assistant for s in scores}), sorted({s.task for s in scores})
    table = ScoreTable.of(scores, names, tasks)
    rng = rng_for(seed, f"arena {name}")
    # Nearly every person has one session per half of the study, on a task of their own: people are the clusters.
    by_person = rng.multinomial(table.people, np.full(table.people, 1 / table.people), size=bootstrap)
    means_BK = table.means_under(by_person[:, table.person_N].astype(np.float64))
    groups = [table.score_N[table.assistant_N == index] for index in range(len(names))]
    variance = components(groups)
    order = np.argsort(-table.means_K, kind="stable")
    return ArenaGroup(
        name=name,
        sessions=len(table),
        people=table.people,
        assistants={
            names[i]: mean_estimate(float(table.means_K[i]), means_BK[:, i], len(groups[i])) for i in order
        },
        components=variance,
        ceiling=human_ceiling(table, None, splits=splits, rng=rng),
        pairs=len(names) * (len(names) - 1) // 2,
        apart=pairs_apart(groups, variance.within_sd) if variance else 0,
        needed=(
            scores_needed(variance.icc_low if variance else 0),
            scores_needed(variance.icc if variance else 0),
            scores_needed(variance.icc_high if variance else 0),
        ),
        power=power(len(names), variance.between_sd, variance.within_sd, rng=rng)
        if variance and variance.between_sd
        else (),
    )


def _checks(
    group: GroupName, sessions: Sequence[Session], matcher: Matcher, *, bootstrap: int, seed: int
) -> list[RuleCheck]:
    paths = {path.id: path for path in trajectories([s.conversation for s in sessions], matcher)}
    rows = [score_conversation(s.conversation, paths.get(s.conversation.id)) for s in sessions]
    checks = []
    for name in SCORES:
        pairs = [(s.score, row[name]) for s, row in zip(sessions, rows, strict=True) if name in row]
        most_common = Counter(value for _, value in pairs).most_common(1)
        if pairs and len(pairs) - most_common[0][1] >= LEAST_OTHERS:
            checks.append(RuleCheck(group=group, score=name, rho=_spearman(pairs, bootstrap, seed)))
    return checks


def _spearman(pairs: Sequence[tuple[Score, float]], bootstrap: int, seed: int) -> Estimate:
    """Returns Spearman's correlation; resamples keep the ranks of the whole sample."""
    ratings = rankdata([score.score for score, _ in pairs])
    values = rankdata([value for _, value in pairs])
    people = [str(score.person) for score, _ in pairs]
    counts = cluster_resamples(people, bootstrap, rng_for(seed, "spearman"))
    counts = np.vstack([np.ones(len(pairs)), counts])
    weights = counts / counts.sum(1, keepdims=True)
    means = [weights @ side for side in (ratings, values)]
    spreads = [
        np.sqrt(weights @ side**2 - mean**2) for side, mean in zip((ratings, values), means, strict=True)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (weights @ (ratings * values) - means[0] * means[1]) / (spreads[0] * spreads[1])
    return mean_estimate(float(rho[0]), rho[1:], len(pairs))
