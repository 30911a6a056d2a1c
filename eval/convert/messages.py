"""Plain OpenAI messages: JSON Lines (or a JSON list) of {messages, id?, goal?, persona?, system?, group?} or of
lists."""

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
    """Converts a file of messages. `stop` adds marks of the user that end a conversation; without a mark the end is
    unknown."""
    converted, marks = Converted(), dict(MARKS)
    for mark in stop:
        marks[mark] = "user"
    return converted.take(
        (_name(key, row), partial(_one, row, source or path.stem, origin, marks, converted))
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
    converted: Converted,
) -> Conversation:
    fields = row if isinstance(row, Mapping) else {}
    record = conversation(
        fields.get("messages") if fields else row,
        source=source,
        origin=origin,
        marks=marks,
        profile=_profile(fields),
        group=None if fields.get("group") is None else str(fields["group"]),
        notes=converted.notes,
    )
    system = fields.get("system")
    if record.profile.goal is None:
        converted.notes["no goal"] += 1
    return record.model_copy(update={"system": system}) if isinstance(system, str) else record


def _profile(fields: Mapping[str, Any]) -> UserProfile:
    goal, persona = fields.get("goal"), fields.get("persona")
    try:
        goal_record = goal if isinstance(goal, str | None) else Goal.model_validate(goal)
        persona_record = persona if isinstance(persona, str | None) else Persona.model_validate(persona)
    except ValidationError as error:
        raise Excluded("a goal or persona of another layout") from error
    return as_profile(goal_record, persona_record)
