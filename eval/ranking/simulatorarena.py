"""SimulatorArena's benchmarking subset: how far 101 rated sessions of people with 9 assistants carry."""

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
from eval.ranking.scores import Score, Side, mean_estimate
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
"""One model under two names in the two halves of the study."""
LEAST_OTHERS = 5
"""Sessions whose score by rule is not the commonest one; with fewer nothing can go with it."""
TAUS = (0.0, 0.3, 0.6, 0.8)


class Session(Record):
    group: GroupName
    score: Score
    """Its score is the person's rating of the whole, 1 to 10."""
    conversation: Conversation


class ArenaGroup(Record):
    name: GroupName
    """both: ratings less the mean of their half of the study."""
    sessions: int
    people: int
    assistants: dict[str, Estimate]
    """Mean rating, best first; n = sessions."""
    components: Components | None
    """None where no assistant has two ratings that differ."""
    ceiling: Ceiling | None
    pairs: int
    apart: int
    """Pairs of assistants told apart at 5 % after Holm."""
    needed: tuple[float | None, float | None, float | None]
    """Sessions per assistant for an expected τ of .8 between two studies: at the low end of the ICC's interval, at its
    value, at the high end; None where the ICC is not above 0."""
    power: tuple[Power, ...]
    """Were the assistants as different as `components` says, two studies of people with so many sessions each."""


class RuleCheck(Record):
    """Does a score by rule go with people's ratings, session by session?"""

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
    """95 % interval of an observed τ over so many assistants, however many sessions are behind each mean."""
    checks: tuple[RuleCheck, ...]


def read_sessions(folder: str | Path) -> list[Session]:
    """Raises DataError naming the file that is missing or not as SimulatorArena published it."""
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
    for said, reply in zip(row["user_queries"], row["ai_responses"], strict=False):
        turns += [Turn(role="user", text=_text(said)), Turn(role="assistant", text=_text(reply))]
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


def _text(said: object) -> str:
    """An uploaded picture is a list of file names."""
    return said if isinstance(said, str) else "[file]"


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
    centred = [score for found in by_group.values() for score in centre([s.score for s in found])]
    scores = {group: [s.score for s in found] for group, found in by_group.items()} | {"both": centred}
    k = len({score.assistant for score in centred})
    return ArenaReport(
        groups=tuple(
            _group(name, found, bootstrap=bootstrap, splits=splits, seed=seed)
            for name, found in scores.items()
        ),
        assistants=k,
        least_significant_tau=least_significant_tau(k),
        tau_intervals={f"{tau:g}": tau_interval(tau, k) for tau in TAUS if k > 4},
        checks=tuple(
            check
            for group, found in by_group.items()
            for check in _checks(group, found, matcher, bootstrap=bootstrap, seed=seed)
        ),
    )


def centre(scores: Sequence[Score]) -> list[Score]:
    """Less their mean: two scales that are not the same can then be pooled."""
    mean = float(np.mean([score.score for score in scores]))
    return [score.model_copy(update={"score": score.score - mean}) for score in scores]


def _group(name: GroupName, scores: Sequence[Score], *, bootstrap: int, splits: int, seed: int) -> ArenaGroup:
    names, tasks = sorted({s.assistant for s in scores}), sorted({s.task for s in scores})
    side = Side.of(scores, names, tasks)
    rng = rng_for(seed, f"arena {name}")
    # Nearly every person has one session per half of the study, on a task of their own: people are the clusters.
    by_person = rng.multinomial(side.people, np.full(side.people, 1 / side.people), size=bootstrap)
    means_BK = side.means_under(by_person[:, side.person_N].astype(np.float64))
    groups = [side.score_N[side.assistant_N == place] for place in range(len(names))]
    found = components(groups)
    order = np.argsort(-side.means_K, kind="stable")
    return ArenaGroup(
        name=name,
        sessions=len(side),
        people=side.people,
        assistants={
            names[i]: mean_estimate(float(side.means_K[i]), means_BK[:, i], len(groups[i])) for i in order
        },
        components=found,
        ceiling=human_ceiling(side, None, splits=splits, rng=rng),
        pairs=len(names) * (len(names) - 1) // 2,
        apart=pairs_apart(groups, found.within_sd) if found else 0,
        needed=(
            scores_needed(found.icc_low if found else 0),
            scores_needed(found.icc if found else 0),
            scores_needed(found.icc_high if found else 0),
        ),
        power=power(len(names), found.between_sd, found.within_sd, rng=rng)
        if found and found.between_sd
        else (),
    )


def _checks(
    group: GroupName, sessions: Sequence[Session], matcher: Matcher, *, bootstrap: int, seed: int
) -> list[RuleCheck]:
    paths = {path.id: path for path in trajectories([s.conversation for s in sessions], matcher)}
    rows = [score_conversation(s.conversation, paths.get(s.conversation.id)) for s in sessions]
    checks = []
    for name in SCORES:
        known = [(s.score, row[name]) for s, row in zip(sessions, rows, strict=True) if name in row]
        commonest = Counter(value for _, value in known).most_common(1)
        if known and len(known) - commonest[0][1] >= LEAST_OTHERS:
            checks.append(RuleCheck(group=group, score=name, rho=_spearman(known, bootstrap, seed)))
    return checks


def _spearman(known: Sequence[tuple[Score, float]], bootstrap: int, seed: int) -> Estimate:
    """Resamples keep the ranks of the whole sample."""
    ratings = rankdata([score.score for score, _ in known])
    values = rankdata([value for _, value in known])
    people = [str(score.person) for score, _ in known]
    counts = cluster_resamples(people, bootstrap, rng_for(seed, "spearman"))
    counts = np.vstack([np.ones(len(known)), counts])
    weights = counts / counts.sum(1, keepdims=True)
    means = [weights @ side for side in (ratings, values)]
    spreads = [
        np.sqrt(weights @ side**2 - mean**2) for side, mean in zip((ratings, values), means, strict=True)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = (weights @ (ratings * values) - means[0] * means[1]) / (spreads[0] * spreads[1])
    return mean_estimate(float(rho[0]), rho[1:], len(known))
