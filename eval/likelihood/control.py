"""Persona control: each style attribute is requested at a low, middle and high level, and all attributes are measured.

One attribute is stated at a time, with the conversation's own goal. Openings are drawn. Attributes that show only
later (objecting, staying) are measured after the real first exchange; staying is 1 - P(end) there. `length_spread`
needs several turns of one conversation and is not requested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata  # type: ignore[import-untyped]

from eval.likelihood.drawing import Ask, Batch
from usersim.rendering.conditioning import FIRST_SEVEN, SAID
from usersim.stats.estimates import Estimate, Floats, Ints, interval, rng_for
from usersim.text.style import measure
from usersim.text.style_bins import LEVELS, Level, shipped_bins
from usersim.text.user_acts import is_pushback
from usersim.types import Conversation, Persona, Record, Style, Turn, UserProfile, UserTurn

ATTRIBUTES = tuple(name for name in SAID if name != "length_spread")
LATER = ("pushback", "turns")
COUNTS: dict[str, tuple[float, float, float]] = {
    "words_per_turn": (4, 15, 45),
    "opening_words": (4, 15, 45),
    "turns": (1, 3, 8),
}


class AttributeControl(Record):
    """Control of one style attribute."""

    attribute: str
    spearman: Estimate
    """Correlation between the requested level (0, 1, 2) and the measured value."""
    means: tuple[float | None, float | None, float | None]
    """Mean measured value at low, middle and high."""
    moved: dict[str, Estimate]
    """Correlation of the requested level with every measured attribute: a row of the leakage matrix."""


class ControlReport(Record):
    """Persona control of all attributes."""

    conversations: int
    attributes: tuple[AttributeControl, ...]
    failed: dict[str, int]


def level_value(attribute: str, level: Level) -> float:
    """Returns a value of the attribute that is rendered in the words of the level."""
    index = LEVELS.index(level)
    if attribute in COUNTS:
        return COUNTS[attribute][index]
    if attribute in FIRST_SEVEN:
        return index / 2
    thresholds = shipped_bins().attributes[attribute]
    return (thresholds.low, (thresholds.low + thresholds.high) / 2, thresholds.high * 1.5 + 0.01)[index]


def asks(conversations: Sequence[Conversation]) -> list[Ask]:
    """Returns one request per attribute, level and conversation."""
    requests = []
    for attribute in ATTRIBUTES:
        for level in LEVELS:
            style = Style(**{attribute: level_value(attribute, level)})
            for conversation in conversations:
                profile = UserProfile(goal=conversation.profile.goal, persona=Persona(style=style))
                history = conversation.turns[:2] if attribute in LATER else ()
                requests.append(Ask(_key(attribute, level, conversation), profile, history))
    return requests


def starts_with_exchange(conversation: Conversation) -> bool:
    """Returns True if the conversation begins with a user turn and an answer, which the later attributes need."""
    return [turn.role for turn in conversation.turns[:2]] == ["user", "assistant"]


def _key(attribute: str, level: str, conversation: Conversation) -> str:
    return f"control {attribute} {level} {conversation.id}"


def measure_turn(turn: UserTurn) -> dict[str, float | None]:
    """Returns the value of each attribute in one drawn turn."""
    values: dict[str, float | None] = {}
    if turn.text:
        style = measure([Turn(role="user", text=turn.text)])
        values = {name: getattr(style, name) for name in ATTRIBUTES if name not in ("opening_words", "turns")}
        values["pushback"] = float(is_pushback(turn.text))
    return {**values, "turns": 1 - turn.end_probability}


def report(
    conversations: Sequence[Conversation], batch: Batch, *, bootstrap: int, seed: int
) -> ControlReport:
    """Returns the control report of the turns drawn for `asks(conversations)`.

    Args:
        conversations: Conversations of the requests.
        batch: Drawn turns.
        bootstrap: Number of bootstrap replicates over conversations.
        seed: Seed of the bootstrap.
    """
    rng = rng_for(seed, "control")
    draws = rng.integers(0, len(conversations), size=(bootstrap, len(conversations)))
    return ControlReport(
        conversations=len(conversations),
        attributes=tuple(
            _attribute_control(attribute, conversations, batch, draws) for attribute in ATTRIBUTES
        ),
        failed=dict(batch.failed),
    )


def _attribute_control(
    attribute: str, conversations: Sequence[Conversation], batch: Batch, draws: Ints
) -> AttributeControl:
    rows = {level: [batch.turns.get(_key(attribute, level, c)) for c in conversations] for level in LEVELS}
    measurements = {level: [measure_turn(t) if t else {} for t in turns] for level, turns in rows.items()}
    moved = {}
    for name in ATTRIBUTES:
        if name != "opening_words":
            table = np.array([[_number(row, name) for row in measurements[level]] for level in LEVELS])
            if (correlation := spearman(table, draws)) is not None:
                moved[name] = correlation
    own_name = "words_per_turn" if attribute == "opening_words" else attribute
    no_estimate = Estimate(value=0.0, low=0.0, high=0.0, n=0)
    return AttributeControl(
        attribute=attribute,
        spearman=moved.get(own_name, no_estimate),
        means=(
            _mean(measurements["low"], own_name),
            _mean(measurements["middle"], own_name),
            _mean(measurements["high"], own_name),
        ),
        moved=moved,
    )


def _number(row: Mapping[str, float | None], name: str) -> float:
    number = row.get(name)
    return np.nan if number is None else number


def _mean(rows: Sequence[Mapping[str, float | None]], name: str) -> float | None:
    numbers = [number for row in rows if (number := row.get(name)) is not None]
    return float(np.mean(numbers)) if numbers else None


def spearman(table_LN: Floats, draws: Ints) -> Estimate | None:
    """Spearman correlation between row number and value, with a bootstrap interval over conversations.

    Args:
        table_LN: Values by level and conversation; NaN entries are left out.
        draws: Resampled conversation indices, (replicates, conversations).

    Returns:
        The estimate; 0 if the values do not vary. None if all values are NaN.
    """
    if np.isnan(table_LN).all():
        return None
    replicates = np.array([_correlation(table_LN[:, columns]) for columns in draws])
    low, high = interval(replicates)
    n = int((~np.isnan(table_LN)).any(0).sum())
    return Estimate(value=_correlation(table_LN), low=low, high=high, n=n)


def _correlation(table_LN: Floats) -> float:
    level = np.repeat(np.arange(len(table_LN)), table_LN.shape[1])
    values = table_LN.ravel()
    is_known = ~np.isnan(values)
    if is_known.sum() < 3:
        return 0.0
    a, b = rankdata(level[is_known]), rankdata(values[is_known])
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
