"""Reading of message lists, flags and keys of people, shared by the corpora."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from data_prep.raw_chats import ROLES, RawRole, RawTurn, well_formed

THOUGHTS = ("reasoning", "thinking", "redacted_thinking")
"""Types of message parts that the other side is not shown."""
PLAIN_ROLE = re.compile(r"[A-Za-z_]{1,20}")


def read_turns(
    messages: Any, *, field: str = "messages", roles: Mapping[str, RawRole] = ROLES
) -> tuple[RawTurn, ...] | str:
    """Reads messages of `{role, content}` or `{from, value}`, also as JSON text; returns the reason if it cannot."""
    if isinstance(messages, str):
        messages = _decode(messages)
    if not isinstance(messages, list):
        return f"no `{field}` list"
    if not messages:
        return "no messages"
    turns = []
    for message in messages:
        turn = read_turn(message, roles)
        if isinstance(turn, str):
            return turn
        turns.append(turn)
    return tuple(turns)


def _decode(text: str) -> Any:
    """Decodes messages stored as JSON text in a table column."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def read_turn(message: Any, roles: Mapping[str, RawRole] = ROLES) -> RawTurn | str:
    if not isinstance(message, dict):
        return "a message is not an object"
    role_name = message.get("role") or message.get("from")
    role = roles.get(role_name.lower()) if isinstance(role_name, str) else None
    if role is None:
        return (
            f"role {role_name!r}"
            if isinstance(role_name, str) and PLAIN_ROLE.fullmatch(role_name)
            else "unknown role"
        )
    # A table with columns for both forms has null in one of them.
    content = message.get("content")
    content = message.get("value") if content is None else content
    if content is None and role != "user":
        content = ""  # an assistant message that is only a tool call
    elif not isinstance(content, str):
        content = text_of(content)
    if content is None:
        return f"{role} content is not text"
    # The fields are checked above; validation would cost more than all other work here.
    return RawTurn.model_construct(role=role, text=repaired(content))


def text_of(content: Any) -> str | None:
    """Joins the text parts of an OpenAI content list, without thoughts; None if a part (an image) is not text."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    content = [part for part in content if not isinstance(part, dict) or part.get("type") not in THOUGHTS]
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    strings = [text for text in texts if isinstance(text, str)]
    return "\n".join(strings) if len(strings) == len(texts) else None


def repaired(text: str) -> str:
    """Applies `well_formed` only where the text needs it; a fast check for most texts."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return well_formed(text)
    return text


def read_flags(row: dict[str, Any], messages: Any = ()) -> tuple[str, ...]:
    """Returns the flags of a row or its messages; a moderation model that flagged it counts as `toxic`."""
    records = [row, *(message for message in messages or () if isinstance(message, dict))]
    flags = {name for name in ("toxic", "redacted") for record in records if record.get(name) is True}
    if _flagged(row.get("openai_moderation")) or _flagged(row.get("toxic_chat_tag")):
        flags.add("toxic")
    row_flags = row.get("flags")
    if isinstance(row_flags, list):
        flags.update(repaired(flag) for flag in row_flags if isinstance(flag, str))
    return tuple(sorted(flags))


def _flagged(verdict: Any) -> bool:
    """Returns whether a moderation result flags the text: one verdict, one per message, or one per model."""
    verdicts = verdict if isinstance(verdict, list) else [verdict]
    if isinstance(verdict, dict):
        verdicts = [verdict, *verdict.values()]
    return any(isinstance(one, dict) and one.get("flagged") is True for one in verdicts)


def read_key(row: dict[str, Any], *names: str) -> str | None:
    """Returns the first of these fields that holds a non-empty string or a number."""
    for name in names:
        value = row.get(name)
        if (isinstance(value, str) and value.strip()) or (
            isinstance(value, int) and not isinstance(value, bool)
        ):
            return repaired(str(value))
    return None
