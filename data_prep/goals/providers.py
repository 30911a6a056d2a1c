"""Protocol of goal providers, and the checks that every goal must pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from data_prep.goals.annotations import Annotation, phrase
from data_prep.goals.overlap import MAX_OVERLAP, overlap, user_texts
from usersim.types import Conversation


@dataclass(frozen=True)
class NoGoal:
    reason: str
    """Reason in fixed words, used as a count key."""


class GoalProvider(Protocol):
    name: str
    """Becomes `Goal.provenance`."""

    async def annotate(self, conversation: Conversation) -> Annotation | NoGoal: ...


PARROTS = "parrots the user"
TURN_MISSING = "facet of a turn that is not there"
EMPTY = "empty goal"


def accepted(
    result: Annotation | NoGoal, conversation: Conversation, *, max_overlap: float = MAX_OVERLAP
) -> Annotation | NoGoal:
    """Returns `result`, or a NoGoal with the reason if it fails a check."""
    if isinstance(result, NoGoal):
        return result
    turns = [facet.turn for facet in result.requirements]
    reason = fault(result.goal, turns, user_texts(conversation), max_overlap=max_overlap)
    return result if reason is None else NoGoal(reason)


def fault(
    goal: str, facet_turns: Iterable[int | None], texts: Sequence[str], *, max_overlap: float
) -> str | None:
    """Returns the fault of a goal for the user turns `texts`; None if there is none."""
    if not any(map(str.isalnum, goal)):
        return EMPTY
    if any(turn is not None and not 1 <= turn <= len(texts) for turn in facet_turns):
        return TURN_MISSING
    if overlap(phrase(goal), texts) > max_overlap:
        return PARROTS
    return None
