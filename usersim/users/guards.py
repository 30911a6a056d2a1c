"""What a person would not have said: attempts that are thrown away and drawn anew, counted by reason."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from usersim.types import Goal, Record, Turn


class Guards(Record):
    """What makes an attempt be thrown away and drawn anew; the text itself is never changed."""

    empty: bool = True
    repeat: bool = True
    """Equal to an earlier user turn, but for case and spacing."""
    goal_copy: bool = True
    """Equal to the goal's summary, or with a run of `goal_run_words` words of the summary or of one facet.
    A short facet said whole is no copy: people answer "two people"."""
    goal_run_words: int = Field(default=8, ge=2)
    assistant_speak: bool = True
    max_words: int | None = 200
    """Runaway turns: refused above this, and drawn anew when `max_tokens` cut them off. Where every attempt was
    cut or refused, the first cut one is given out with finish "length": half a sentence that says so is better
    than a lost conversation. A call that asks for fewer tokens than the user's own sampling gets its piece.
    None: any length."""
    attempts: int = Field(default=6, ge=1)

    @classmethod
    def off(cls) -> Guards:
        """The first attempt, whatever it is."""
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
    """Why the guards refuse `text`, or None."""
    if not text:
        return "empty" if guards.empty else None
    said = _normal(text)
    if guards.repeat and any(turn.role == "user" and _normal(turn.text) == said for turn in turns):
        return "repeat"
    if guards.goal_copy and goal is not None and _copies(said, goal, guards.goal_run_words):
        return "goal_copy"
    if guards.assistant_speak and ASSISTANT_SPEAK.search(text):
        return "assistant_speak"
    if guards.max_words is not None and len(text.split()) > guards.max_words:
        return "too_long"
    return None


def _normal(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")


def _copies(said: str, goal: Goal, run: int) -> bool:
    wishes = [_normal(goal.summary), *(_normal(facet.text) for facet in goal.facets)]
    return said == wishes[0] or any(_has_run_of(said, wish.split(), run) for wish in wishes)


def _has_run_of(said: str, words: list[str], run: int) -> bool:
    runs = (" ".join(words[i : i + run]) for i in range(len(words) - run + 1))
    return any(f" {copied} " in f" {said} " for copied in runs)
