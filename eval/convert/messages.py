"""Plain OpenAI messages: JSON Lines (or a JSON list) of {messages, id?, goal?, persona?, system?, group?} or lists."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from eval.convert.files import rows
from eval.convert.turns import MARKS, Converted, Excluded, conversation
from usersim.types import Conversation, EndedBy, Goal, Persona, UserProfile
from usersim.users.protocols import as_profile


def convert(
    path: Path,
    *,
    source: str | None = None,
    origin: Literal["human", "simulated"] = "simulated",
    stop: tuple[str, ...] = (),
) -> Converted:
    """`stop`: more words of the user that end a conversation. Without one the end is unknown."""
    made, marks = Converted(), dict(MARKS)
    for mark in stop:
        marks[mark] = "user"
    return made.take(
        (_name(key, row), partial(_one, row, source or path.stem, origin, marks, made))
        for key, row in rows(path)
    )


def _name(key: str, row: Any) -> str:
    for field in ("id", "conversation_id"):
        if isinstance(row, Mapping) and row.get(field) is not None:
            return str(row[field])
    return key


def _one(
    row: Any,
    source: str,
    origin: Literal["human", "simulated"],
    marks: Mapping[str, EndedBy],
    made: Converted,
) -> Conversation:
    fields = row if isinstance(row, Mapping) else {}
    found = conversation(
        fields.get("messages") if fields else row,
        source=source,
        origin=origin,
        marks=marks,
        profile=_profile(fields),
        group=None if fields.get("group") is None else str(fields["group"]),
        notes=made.notes,
    )
    system = fields.get("system")
    if found.profile.goal is None:
        made.notes["no goal"] += 1
    return found.model_copy(update={"system": system}) if isinstance(system, str) else found


def _profile(fields: Mapping[str, Any]) -> UserProfile:
    goal, persona = fields.get("goal"), fields.get("persona")
    try:
        made_goal = goal if isinstance(goal, str | None) else Goal.model_validate(goal)
        made_persona = persona if isinstance(persona, str | None) else Persona.model_validate(persona)
    except ValidationError as error:
        raise Excluded("a goal or persona that is none of ours") from error
    return as_profile(made_goal, made_persona)
