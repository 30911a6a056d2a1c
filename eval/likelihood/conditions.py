"""Conditions of scoring: the goal and persona in the prompt when a person's turns are scored.

Style as a condition comes from *other* turns of the person: the odd turns are scored under the style measured on
the even ones, and vice versa. Only `own_goal_persona_oracle` has the style of the turns it predicts. Goals and
persona texts were written from the whole conversation, so every "own" row is an upper bound; "other" is the control.
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
"""Style attributes of a single position in the conversation, which half of the turns cannot measure."""


@dataclass(frozen=True)
class Pass:
    """One scoring of a conversation.

    Attributes:
        profile: Goal and persona in the prompt.
        parity: Only user turns (from 0) with index % 2 == `parity` count; None: all.
    """

    profile: UserProfile
    parity: int | None = None


def usable(conversations: Sequence[Conversation]) -> list[Condition]:
    """Returns the conditions available for these conversations; each needs a goal, or a persona, in all of them."""
    if len(conversations) < 2 or not all(c.profile.goal for c in conversations):
        return ["no_goal"]
    if not all(c.profile.persona for c in conversations):
        return ["no_goal", "own_goal", "other_goal"]
    return list(CONDITIONS)


def passes(conversations: Sequence[Conversation], condition: Condition, seed: int) -> list[list[Pass]]:
    """Returns for each conversation the passes in which it is scored under the condition."""
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
    """Rotation along a random order: each person gets the goal of another (equal only if two share one)."""
    order = rng_for(seed, "other goals").permutation(len(conversations))
    source_of = {int(a): int(b) for a, b in zip(order, np.roll(order, 1), strict=True)}
    return [conversations[source_of[index]] for index in range(len(conversations))]


def _crossed(conversation: Conversation, *, with_goal: bool) -> list[Pass]:
    goal = conversation.profile.goal if with_goal else None
    persona = conversation.profile.persona or Persona()
    user_turns = [turn for turn in conversation.turns if turn.role == "user"]
    if len(user_turns) < 2:
        alone = persona.model_copy(update={"style": None})
        return [Pass(UserProfile(goal=goal, persona=alone))]
    passes_by_parity = []
    for parity in (0, 1):
        style = measure(user_turns[1 - parity :: 2]).model_copy(update=LEFT_OUT)
        known_persona = persona.model_copy(update={"style": style if style != Style() else None})
        passes_by_parity.append(Pass(UserProfile(goal=goal, persona=known_persona), parity))
    return passes_by_parity
