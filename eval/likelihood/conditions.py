"""What the model is told about the person whose turns it is scored on.

Style as a condition comes from *other* turns of the person: the odd turns are scored under the style measured on
the even ones and the other way round. `own_goal_persona_oracle` alone has the style of the very turns it predicts.
Goals and persona texts were written by reading the conversation, so every "own" row is an upper bound; "other"
is the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from usersim.stats.estimates import rng_for
from usersim.text.style import measure
from usersim.types import Conversation, Persona, Style, UserProfile

Condition = Literal[
    "no_goal",
    "own_goal",
    "other_goal",
    "own_persona",
    "other_persona",
    "own_goal_persona",
    "own_goal_persona_oracle",
]
CONDITIONS: tuple[Condition, ...] = (
    "no_goal",
    "own_goal",
    "other_goal",
    "own_persona",
    "other_persona",
    "own_goal_persona",
    "own_goal_persona_oracle",
)
LEFT_OUT = {"opening_words": None, "turns": None}
"""They tell of one place in the conversation; half of the turns cannot measure them."""


@dataclass(frozen=True)
class Pass:
    """One scoring of a conversation. Of its user turns (from 0) those with index % 2 == `parity` count; None: all."""

    profile: UserProfile
    parity: int | None = None


def usable(conversations: Sequence[Conversation]) -> list[Condition]:
    """The conditions that this file can answer; goals and personas are needed of every conversation."""
    if len(conversations) < 2 or not all(c.profile.goal for c in conversations):
        return ["no_goal"]
    if not all(c.profile.persona for c in conversations):
        return ["no_goal", "own_goal", "other_goal"]
    return list(CONDITIONS)


def passes(conversations: Sequence[Conversation], condition: Condition, seed: int) -> list[list[Pass]]:
    """For each conversation the passes it is scored in."""
    if condition == "no_goal":
        return [[Pass(UserProfile())] for _ in conversations]
    if condition == "own_goal_persona_oracle":
        return [[Pass(c.profile)] for c in conversations]
    if condition in ("own_goal", "other_goal"):
        source = _own(conversations) if condition == "own_goal" else _others(conversations, seed)
        return [[Pass(UserProfile(goal=other.profile.goal))] for other in source]
    if condition == "other_persona":
        return [[Pass(UserProfile(persona=c.profile.persona))] for c in _others(conversations, seed)]
    return [_crossed(c, with_goal=condition == "own_goal_persona") for c in conversations]


def _own(conversations: Sequence[Conversation]) -> list[Conversation]:
    return list(conversations)


def _others(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Rotated along a random order, so that nobody keeps his own, unless two share theirs."""
    order = rng_for(seed, "other goals").permutation(len(conversations))
    given = {int(a): int(b) for a, b in zip(order, np.roll(order, 1), strict=True)}
    return [conversations[given[index]] for index in range(len(conversations))]


def _crossed(conversation: Conversation, *, with_goal: bool) -> list[Pass]:
    goal = conversation.profile.goal if with_goal else None
    persona = conversation.profile.persona or Persona()
    said = [turn for turn in conversation.turns if turn.role == "user"]
    if len(said) < 2:
        alone = persona.model_copy(update={"style": None})
        return [Pass(UserProfile(goal=goal, persona=alone))]
    made = []
    for parity in (0, 1):
        style = measure(said[1 - parity :: 2]).model_copy(update=LEFT_OUT)
        told = persona.model_copy(update={"style": style if style != Style() else None})
        made.append(Pass(UserProfile(goal=goal, persona=told), parity))
    return made
