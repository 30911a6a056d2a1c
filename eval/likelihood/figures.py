"""Records of report.json of `usersim eval model`, and their computation from scored conversations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from eval.fidelity.metrics.endings.ending import EndReport, Positions, best_threshold, join, report_ends
from eval.fidelity.report_record import FileFacts
from eval.likelihood.conditions import Condition
from eval.likelihood.control import ControlReport
from eval.likelihood.goals import GoalReport
from eval.likelihood.likelihood import ConversationScore, TurnScore
from eval.likelihood.memory import MemoryReport
from eval.likelihood.roles import Slips
from eval.likelihood.scoring import Scores
from usersim.stats.estimates import Estimate, Floats, bootstrap_ratio, interval, resamples, rng_for
from usersim.types import Record

Which = Literal["all", "first", "later"]


"""Turns that a number covers."""

WORTH: tuple[tuple[Condition, Condition], ...] = (
    ("own_goal", "no_goal"),
    ("own_goal", "other_goal"),
    ("own_persona", "no_goal"),
    ("own_persona", "other_persona"),
    ("own_goal_persona", "own_goal"),
)
"""Pairs of conditions whose contrast is the value of a goal or a persona."""


class TurnLikelihood(Record):
    """Likelihood of user turns, with their end-of-turn tokens, without the end of the conversation."""

    nats_per_token: dict[Which, Estimate]
    bits_per_character: dict[Which, Estimate]
    """Comparable between tokenizers. The end of turn costs bits and adds no character."""


class ModelScores(Record):
    """Tables 1 and 2 of one model."""

    name: str
    prompt: str | None = None
    """Key of the prompt in `usersim.users.prompted.PROMPTS`: the best on dev under the own goal."""
    prompts_on_dev: dict[str, float] = Field(default_factory=dict)
    """Nats per token on dev under each prompt."""
    likelihood: dict[Condition, TurnLikelihood]
    """On the same conversations, those with a goal; only `no_goal` if the file has no goals."""
    ends: dict[Condition, EndReport | None]


class Contrast(Record):
    """Comparison of two scorings of the same turns. A difference below 0, or a ratio below 1, favours the first."""

    first: str
    second: str
    bits_per_character: Estimate
    """Difference."""
    perplexity: dict[Which, Estimate]
    """Ratio of perplexities per token; 0.75 is a quarter lower. Both sides must use the same tokenizer."""


class RoleReport(Record):
    """Role adherence of all speakers."""

    voice_sensitivity: float
    """Recall of the speaker classifier on real assistant turns, at a false alarm rate of 1 %."""
    speakers: dict[str, Slips]


class ModelReport(Record):
    """Content of report.json of `usersim eval model`."""

    kind: Literal["model"] = "model"
    models: tuple[ModelScores, ...]
    contrasts: tuple[Contrast, ...]
    goals: GoalReport | None = None
    control: ControlReport | None = None
    roles: RoleReport | None = None
    memory: MemoryReport | None = None
    conversations: int
    user_turns: int
    excluded: dict[str, int]
    notes: tuple[str, ...]
    human_file: FileFacts | None = None
    dev_file: FileFacts | None = None
    weights: dict[str, str]
    """SHA-256 of the weights, by model."""
    seed: int
    bootstrap: int
    versions: dict[str, str]
    seconds: float


def positions_of(scores: Sequence[ConversationScore]) -> Positions:
    """Returns the positions at which the person could leave: before each later user turn, and at a known end."""
    parts = []
    for score in scores:
        p = [turn.end_probability for turn in score.turns[1:]]
        ended = [0] * len(p)
        if score.closing is not None and score.turns:
            p, ended = [*p, score.closing], [*ended, 1]
        parts.append((p, ended))
    return join(parts)


def model_scores(
    name: str, scores: Scores, counts_BN: Floats, dev: Scores | None = None, **facts: Any
) -> ModelScores:
    """Returns tables 1 and 2 of a model.

    Args:
        name: Name of the model.
        scores: Scores by condition.
        counts_BN: Bootstrap counts over conversations.
        dev: Scores on dev, which choose the end thresholds.
        **facts: Other fields of `ModelScores`.
    """
    thresholds = {
        condition: best_threshold(positions_of(conversation_scores))
        for condition, conversation_scores in (dev or {}).items()
    }
    return ModelScores(
        name=name,
        **facts,
        likelihood={
            condition: _likelihood(conversation_scores, counts_BN)
            for condition, conversation_scores in scores.items()
        },
        ends={
            condition: report_ends(
                positions_of(conversation_scores), counts_BN, dev_threshold=thresholds.get(condition)
            )
            for condition, conversation_scores in scores.items()
        },
    )


def draws(conversations: int, bootstrap: int, seed: int) -> Floats:
    """Returns bootstrap counts, (replicates, conversations)."""
    return resamples(conversations, bootstrap, rng_for(seed, "bootstrap"))


def contrasts(by_model: Mapping[str, Scores], counts_BN: Floats) -> list[Contrast]:
    """Returns the contrasts of conditions within each model (`WORTH`), and of the first model with the others."""
    pairs: list[tuple[tuple[str, Condition], tuple[str, Condition]]] = []
    for name, scores in by_model.items():
        pairs += [((name, a), (name, b)) for a, b in WORTH if {a, b} <= scores.keys()]
    main, *others = by_model
    for other in others:
        both = [condition for condition in by_model[main] if condition in by_model[other]]
        pairs += [((main, condition), (other, condition)) for condition in both]
    return [
        Contrast(
            first=" / ".join(a),
            second=" / ".join(b),
            bits_per_character=_paired(by_model[a[0]][a[1]], by_model[b[0]][b[1]], counts_BN),
            perplexity=_ratios(by_model[a[0]][a[1]], by_model[b[0]][b[1]], counts_BN),
        )
        for a, b in pairs
    ]


def _likelihood(scores: Sequence[ConversationScore], counts_BN: Floats) -> TurnLikelihood:
    per_token: dict[Which, Estimate] = {}
    per_character: dict[Which, Estimate] = {}
    which: Which
    for which in ("all", "first", "later"):
        nats, tokens, characters = _sums(scores, which)
        if tokens.sum():
            per_token[which] = bootstrap_ratio(nats, tokens, counts_BN)
        if characters.sum():
            per_character[which] = bootstrap_ratio(nats / math.log(2), characters, counts_BN)
    return TurnLikelihood(nats_per_token=per_token, bits_per_character=per_character)


def _paired(a: Sequence[ConversationScore], b: Sequence[ConversationScore], counts_BN: Floats) -> Estimate:
    sums = [_sums(scores, "all") for scores in (a, b)]
    bits = [(nats / math.log(2), characters) for nats, _, characters in sums]
    values = [x.sum() / n.sum() for x, n in bits]
    rows = [(counts_BN @ x) / np.maximum(counts_BN @ n, 1e-300) for x, n in bits]
    low, high = interval(rows[0] - rows[1])
    return Estimate(value=float(values[0] - values[1]), low=low, high=high, n=len(a))


def _ratios(
    a: Sequence[ConversationScore], b: Sequence[ConversationScore], counts_BN: Floats
) -> dict[Which, Estimate]:
    ratios: dict[Which, Estimate] = {}
    which: Which
    for which in ("all", "first", "later"):
        (nats_a, tokens_a, _), (nats_b, tokens_b, _) = _sums(a, which), _sums(b, which)
        if tokens_a.sum() and tokens_b.sum():
            value = math.exp(nats_a.sum() / tokens_a.sum() - nats_b.sum() / tokens_b.sum())
            some = np.minimum(counts_BN @ tokens_a, counts_BN @ tokens_b) > 0
            counts = counts_BN[some]
            rows = (counts @ nats_a) / (counts @ tokens_a) - (counts @ nats_b) / (counts @ tokens_b)
            low, high = interval(np.exp(rows))
            ratios[which] = Estimate(value=value, low=low, high=high, n=len(a))
    return ratios


def _sums(scores: Sequence[ConversationScore], which: Which) -> tuple[Floats, Floats, Floats]:
    """Sums of nats, tokens and characters of each conversation."""
    cut = {"all": slice(None), "first": slice(0, 1), "later": slice(1, None)}[which]
    turns: list[tuple[TurnScore, ...]] = [score.turns[cut] for score in scores]
    return (
        np.array([sum(t.nats for t in row) for row in turns], dtype=np.float64),
        np.array([sum(t.tokens for t in row) for row in turns], dtype=np.float64),
        np.array([sum(t.characters for t in row) for row in turns], dtype=np.float64),
    )
