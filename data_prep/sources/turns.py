"""What the corpora share: lists of messages, and what a row says about its text and its person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from data_prep.raw_chats import ROLES, RawRole, RawTurn, well_formed

THOUGHTS = ("reasoning", "thinking", "redacted_thinking")
"""Types of parts of a message that the other side is not shown."""
PLAIN_ROLE = re.compile(r"[A-Za-z_]{1,20}")


def read_turns(
    messages: Any, *, field: str = "messages", roles: Mapping[str, RawRole] = ROLES
) -> tuple[RawTurn, ...] | str:
    """Messages of `{role, content}` or `{from, value}`, also as JSON text; or why they cannot be read."""
    if isinstance(messages, str):
        messages = _decoded(messages)
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


def _decoded(text: str) -> Any:
    """A table often keeps the messages as JSON in a column of text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def read_turn(message: Any, roles: Mapping[str, RawRole] = ROLES) -> RawTurn | str:
    if not isinstance(message, dict):
        return "a message is not an object"
    named = message.get("role") or message.get("from")
    role = roles.get(named.lower()) if isinstance(named, str) else None
    if role is None:
        return f"role {named!r}" if isinstance(named, str) and PLAIN_ROLE.fullmatch(named) else "unknown role"
    # A table with columns for both ways of writing has null in one of them.
    content = message.get("content")
    content = message.get("value") if content is None else content
    if content is None and role != "user":
        content = ""  # an assistant message that is only a tool call
    elif not isinstance(content, str):
        content = text_of(content)
    if content is None:
        return f"{role} content is not text"
    # Checked field by field above; validation again would cost more than all the rest.
    return RawTurn.model_construct(role=role, text=sound(content))


def text_of(content: Any) -> str | None:
    """OpenAI's list of parts without what the model thought; None where a part is not text: what an image says cannot
    be kept."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    content = [part for part in content if not isinstance(part, dict) or part.get("type") not in THOUGHTS]
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    strings = [text for text in texts if isinstance(text, str)]
    return "\n".join(strings) if len(strings) == len(texts) else None


def sound(text: str) -> str:
    """`well_formed`, at the cost of a look where there is nothing to mend."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return well_formed(text)
    return text


def read_flags(row: dict[str, Any], messages: Any = ()) -> tuple[str, ...]:
    """`toxic` (also where a moderation model flagged it) and `redacted`, of the row or of any message."""
    marked = [row, *(message for message in messages or () if isinstance(message, dict))]
    found = {name for name in ("toxic", "redacted") for one in marked if one.get(name) is True}
    if _flagged(row.get("openai_moderation")) or _flagged(row.get("toxic_chat_tag")):
        found.add("toxic")
    given = row.get("flags")
    if isinstance(given, list):
        found.update(sound(flag) for flag in given if isinstance(flag, str))
    return tuple(sorted(found))


def _flagged(verdict: Any) -> bool:
    """One verdict, one for each message, or one for each model that judged."""
    verdicts = verdict if isinstance(verdict, list) else [verdict]
    if isinstance(verdict, dict):
        verdicts = [verdict, *verdict.values()]
    return any(isinstance(one, dict) and one.get("flagged") is True for one in verdicts)


def read_key(row: dict[str, Any], *names: str) -> str | None:
    """The first of these fields that holds a non-empty string or a number."""
    for name in names:
        value = row.get(name)
        if (isinstance(value, str) and value.strip()) or (
            isinstance(value, int) and not isinstance(value, bool)
        ):
            return sound(str(value))
    return None
