"""From scored conversations to the figures of `usersim eval model`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from eval.estimates import Estimate, Floats, bootstrap_ratio, interval, resamples, rng_for
from eval.likelihood import ConversationScore, Scorer, TurnScore
from eval.metrics.ending import EndReport, Positions, best_threshold, join, report_ends
from eval.report import FileFacts
from usersim.types import Conversation, Record, UserProfile

Condition = Literal["no_goal", "own_goal", "other_goal", "own_goal_persona"]
Which = Literal["all", "first", "later"]
CONDITIONS: tuple[Condition, ...] = ("no_goal", "own_goal", "other_goal", "own_goal_persona")


class Likelihood(Record):
    """Over user words and ends of turn; never over the end of the conversation."""

    nats_per_token: dict[Which, Estimate]
    bits_per_character: dict[Which, Estimate]
    """Comparable between tokenisers. The end of turn costs bits and adds no character."""


class ModelScores(Record):
    name: str
    likelihood: dict[Condition, Likelihood]
    """On the same conversations, those with a goal; `no_goal` alone where the file has no goals."""
    ends: dict[Condition, EndReport | None]


class Contrast(Record):
    """Difference in bits per character on the same conversations; below zero: the first predicts better."""

    first: str
    second: str
    bits_per_character: Estimate


class ModelReport(Record):
    kind: Literal["likelihood"] = "likelihood"
    models: tuple[ModelScores, ...]
    contrasts: tuple[Contrast, ...]
    conversations: int
    user_turns: int
    excluded: dict[str, int]
    notes: tuple[str, ...]
    human_file: FileFacts | None = None
    dev_file: FileFacts | None = None
    weights: dict[str, str]
    """SHA-256 of every model's weights."""
    seed: int
    bootstrap: int
    versions: dict[str, str]
    seconds: float


Scores = dict[Condition, list[ConversationScore]]


def profiles(conversations: Sequence[Conversation], condition: Condition, seed: int) -> list[UserProfile]:
    """The profile each conversation is scored under. Other goals are rotated along a random order, so that
    nobody keeps his own, unless two conversations share theirs."""
    if condition == "no_goal":
        return [UserProfile() for _ in conversations]
    if condition == "own_goal_persona":
        return [c.profile for c in conversations]
    goals = [c.profile.goal for c in conversations]
    if condition == "other_goal":
        order = rng_for(seed, "other goals").permutation(len(goals))
        given = {int(a): goals[int(b)] for a, b in zip(order, np.roll(order, 1), strict=True)}
        goals = [given[index] for index in range(len(goals))]
    return [UserProfile(goal=goal) for goal in goals]


def score_all(
    scorer: Scorer,
    conversations: Sequence[Conversation],
    conditions: Sequence[Condition],
    seed: int,
    progress: Callable[[], None] | None = None,
) -> Scores:
    scores: Scores = {}
    for condition in conditions:
        scores[condition] = []
        for conversation, profile in zip(
            conversations, profiles(conversations, condition, seed), strict=True
        ):
            scores[condition].append(scorer.score(conversation, profile))
            if progress:
                progress()
    return scores


def positions_of(scores: Sequence[ConversationScore]) -> Positions:
    """Where the person could leave: before every user turn but the first, and at a known end."""
    parts = []
    for score in scores:
        p = [turn.end_probability for turn in score.turns[1:]]
        ended = [0] * len(p)
        if score.closing is not None and score.turns:
            p, ended = [*p, score.closing], [*ended, 1]
        parts.append((p, ended))
    return join(parts)


def model_scores(
    name: str, scores: Scores, counts_BN: Floats, dev: Sequence[ConversationScore] | None = None
) -> ModelScores:
    """`dev`: the same model on a dev file, in the last condition, from which the threshold is chosen."""
    threshold = best_threshold(positions_of(dev)) if dev else None
    return ModelScores(
        name=name,
        likelihood={condition: _likelihood(found, counts_BN) for condition, found in scores.items()},
        ends={
            condition: report_ends(positions_of(found), counts_BN, dev_threshold=threshold)
            for condition, found in scores.items()
        },
    )


def draws(conversations: int, bootstrap: int, seed: int) -> Floats:
    return resamples(conversations, bootstrap, rng_for(seed, "bootstrap"))


def contrasts(by_model: Mapping[str, Scores], counts_BN: Floats) -> list[Contrast]:
    """What the goal is worth to every model, own against another's, and every model against the first."""
    pairs: list[tuple[tuple[str, Condition], tuple[str, Condition]]] = []
    for name, scores in by_model.items():
        for second in ("no_goal", "other_goal"):
            if {"own_goal", second} <= scores.keys():
                pairs.append(((name, "own_goal"), (name, second)))
    main, *others = by_model
    for other in others:
        pairs += [((main, condition), (other, condition)) for condition in by_model[main]]
    return [
        Contrast(
            first=" / ".join(a),
            second=" / ".join(b),
            bits_per_character=_paired(by_model[a[0]][a[1]], by_model[b[0]][b[1]], counts_BN),
        )
        for a, b in pairs
    ]


def _likelihood(scores: Sequence[ConversationScore], counts_BN: Floats) -> Likelihood:
    per_token: dict[Which, Estimate] = {}
    per_character: dict[Which, Estimate] = {}
    which: Which
    for which in ("all", "first", "later"):
        nats, tokens, characters = _sums(scores, which)
        if tokens.sum():
            per_token[which] = bootstrap_ratio(nats, tokens, counts_BN)
        if characters.sum():
            per_character[which] = bootstrap_ratio(nats / math.log(2), characters, counts_BN)
    return Likelihood(nats_per_token=per_token, bits_per_character=per_character)


def _paired(a: Sequence[ConversationScore], b: Sequence[ConversationScore], counts_BN: Floats) -> Estimate:
    sums = [_sums(scores, "all") for scores in (a, b)]
    bits = [(nats / math.log(2), characters) for nats, _, characters in sums]
    values = [x.sum() / n.sum() for x, n in bits]
    rows = [(counts_BN @ x) / np.maximum(counts_BN @ n, 1e-300) for x, n in bits]
    low, high = interval(rows[0] - rows[1])
    return Estimate(value=float(values[0] - values[1]), low=low, high=high, n=len(a))


def _sums(scores: Sequence[ConversationScore], which: Which) -> tuple[Floats, Floats, Floats]:
    """Nats, tokens, characters of each conversation."""
    cut = {"all": slice(None), "first": slice(0, 1), "later": slice(1, None)}[which]
    turns: list[tuple[TurnScore, ...]] = [score.turns[cut] for score in scores]
    return (
        np.array([sum(t.nats for t in row) for row in turns], dtype=np.float64),
        np.array([sum(t.tokens for t in row) for row in turns], dtype=np.float64),
        np.array([sum(t.characters for t in row) for row in turns], dtype=np.float64),
    )
