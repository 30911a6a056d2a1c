"""Guards on sampled user turns: implausible attempts are rejected, counted by reason and resampled."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from usersim.types import Goal, Record, Turn


class Guards(Record):
    """Rules for rejecting an attempt, which is then resampled. Its text is never edited."""

    empty: bool = True
    repeat: bool = True
    """Reject a turn equal to an earlier user turn, ignoring case, spacing and final punctuation."""
    goal_copy: bool = True
    """Reject a copy of the goal's summary, or of `goal_run_words` consecutive words of the summary or of one facet.
    A short facet quoted in full is allowed: people answer "two people"."""
    goal_run_words: int = Field(default=8, ge=2)
    assistant_speak: bool = True
    max_words: int | None = 200
    """Reject longer turns, and turns that `max_tokens` cut off. If every attempt was rejected, the first one that was
    only cut off is returned with finish "length": half a sentence is better than a lost conversation.
    A call with fewer `max_tokens` than the user's own sampling gets its cut turn. None: any length."""
    attempts: int = Field(default=6, ge=1)

    @classmethod
    def off(cls) -> Guards:
        """Returns guards that accept any first attempt."""
        return cls(
            empty=False, repeat=False, goal_copy=False, assistant_speak=False, max_words=None, attempts=1
        )


ASSISTANT_SPEAK = re.compile(
    r"\bas an ai\b|\bas a(?:n ai)? language model\b|\bhow (?:can|may) i (?:help|assist) you\b"
    r"|\bi(?:'m| am) (?:here|happy) to (?:help|assist)\b|\bis there anything else i can\b"
    r"|^(?:sure|certainly|of course)[,!.] here(?:'s| is| are)\b|\bfeel free to ask\b",
    re.IGNORECASE,
)


def rejection(text: str, goal: Goal | None, turns: Sequence[Turn], guards: Guards) -> str | None:
    """Returns the reason why the guards reject `text`, or None if they accept it."""
    if not text:
        return "empty" if guards.empty else None
    normalized = _normalize(text)
    if guards.repeat and any(turn.role == "user" and _normalize(turn.text) == normalized for turn in turns):
        return "repeat"
    if guards.goal_copy and goal is not None and _copies(normalized, goal, guards.goal_run_words):
        return "goal_copy"
    if guards.assistant_speak and ASSISTANT_SPEAK.search(text):
        return "assistant_speak"
    if guards.max_words is not None and len(text.split()) > guards.max_words:
        return "too_long"
    return None


def _normalize(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")


def _copies(normalized: str, goal: Goal, run: int) -> bool:
    wishes = [_normalize(goal.summary), *(_normalize(facet.text) for facet in goal.facets)]
    return normalized == wishes[0] or any(_has_run_of(normalized, wish.split(), run) for wish in wishes)


def _has_run_of(normalized: str, words: list[str], run: int) -> bool:
    runs = (" ".join(words[i : i + run]) for i in range(len(words) - run + 1))
    return any(f" {copied} " in f" {normalized} " for copied in runs)
