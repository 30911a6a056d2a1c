"""Persona control: each attribute of style is asked for low, middle and high; what moves, and what else moves?

One attribute is stated at a time, beside the conversation's own goal. Openings are drawn; what shows only later
(objecting, staying) is read after the real first exchange. Staying is 1 - P(end) there. `length_spread` needs
several turns of one conversation and is not asked for.
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

ASKED = tuple(name for name in SAID if name != "length_spread")
LATER = ("pushback", "turns")
COUNTS: dict[str, tuple[float, float, float]] = {
    "words_per_turn": (4, 15, 45),
    "opening_words": (4, 15, 45),
    "turns": (1, 3, 8),
}


class Asked(Record):
    attribute: str
    spearman: Estimate
    """Between the level asked for (0, 1, 2) and what was measured of the turn."""
    means: tuple[float | None, float | None, float | None]
    """Measured, at low, middle and high."""
    moved: dict[str, Estimate]
    """Spearman of the same request with every measured attribute: the row of the leakage matrix."""


class ControlReport(Record):
    conversations: int
    attributes: tuple[Asked, ...]
    failed: dict[str, int]


def value(attribute: str, level: Level) -> float:
    """A value whose words are those of `level`."""
    index = LEVELS.index(level)
    if attribute in COUNTS:
        return COUNTS[attribute][index]
    if attribute in FIRST_SEVEN:
        return index / 2
    found = shipped_bins().attributes[attribute]
    return (found.low, (found.low + found.high) / 2, found.high * 1.5 + 0.01)[index]


def asks(conversations: Sequence[Conversation]) -> list[Ask]:
    made = []
    for attribute in ASKED:
        for level in LEVELS:
            style = Style(**{attribute: value(attribute, level)})
            for conversation in conversations:
                profile = UserProfile(goal=conversation.profile.goal, persona=Persona(style=style))
                history = conversation.turns[:2] if attribute in LATER else ()
                made.append(Ask(_key(attribute, level, conversation), profile, history))
    return made


def answered(conversation: Conversation) -> bool:
    """Whether it begins with a user turn and an answer, so that every request can be made of it."""
    return [turn.role for turn in conversation.turns[:2]] == ["user", "assistant"]


def _key(attribute: str, level: str, conversation: Conversation) -> str:
    return f"control {attribute} {level} {conversation.id}"


def measured(turn: UserTurn) -> dict[str, float | None]:
    """What one drawn turn shows of each attribute."""
    found: dict[str, float | None] = {}
    if turn.text:
        style = measure([Turn(role="user", text=turn.text)])
        found = {name: getattr(style, name) for name in ASKED if name not in ("opening_words", "turns")}
        found["pushback"] = float(is_pushback(turn.text))
    return {**found, "turns": 1 - turn.end_probability}


def report(
    conversations: Sequence[Conversation], batch: Batch, *, bootstrap: int, seed: int
) -> ControlReport:
    rng = rng_for(seed, "control")
    draws = rng.integers(0, len(conversations), size=(bootstrap, len(conversations)))
    return ControlReport(
        conversations=len(conversations),
        attributes=tuple(_asked(attribute, conversations, batch, draws) for attribute in ASKED),
        failed=dict(batch.failed),
    )


def _asked(attribute: str, conversations: Sequence[Conversation], batch: Batch, draws: Ints) -> Asked:
    rows = {level: [batch.turns.get(_key(attribute, level, c)) for c in conversations] for level in LEVELS}
    shown = {level: [measured(t) if t else {} for t in turns] for level, turns in rows.items()}
    moved = {}
    for name in ASKED:
        if name != "opening_words":
            table = np.array([[_number(row, name) for row in shown[level]] for level in LEVELS])
            if (found := spearman(table, draws)) is not None:
                moved[name] = found
    own = "words_per_turn" if attribute == "opening_words" else attribute
    nothing = Estimate(value=0.0, low=0.0, high=0.0, n=0)
    return Asked(
        attribute=attribute,
        spearman=moved.get(own, nothing),
        means=(_mean(shown["low"], own), _mean(shown["middle"], own), _mean(shown["high"], own)),
        moved=moved,
    )


def _number(row: Mapping[str, float | None], name: str) -> float:
    found = row.get(name)
    return np.nan if found is None else found


def _mean(rows: Sequence[Mapping[str, float | None]], name: str) -> float | None:
    known = [found for row in rows if (found := row.get(name)) is not None]
    return float(np.mean(known)) if known else None


def spearman(table_LN: Floats, draws: Ints) -> Estimate | None:
    """Between row number and value, NaN left out, with an interval over resampled columns (conversations).

    0 where nothing varies. None where nothing is known.
    """
    if np.isnan(table_LN).all():
        return None
    replicates = np.array([_correlation(table_LN[:, columns]) for columns in draws])
    low, high = interval(replicates)
    known = int((~np.isnan(table_LN)).any(0).sum())
    return Estimate(value=_correlation(table_LN), low=low, high=high, n=known)


def _correlation(table_LN: Floats) -> float:
    level = np.repeat(np.arange(len(table_LN)), table_LN.shape[1])
    values = table_LN.ravel()
    known = ~np.isnan(values)
    if known.sum() < 3:
        return 0.0
    a, b = rankdata(level[known]), rankdata(values[known])
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
