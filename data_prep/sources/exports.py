"""Personal exports of ChatGPT (`conversations.json`, a tree of messages) and Claude (`chat_messages`).

Thoughts, tool calls and their output, and hidden messages are left out; adjacent messages of one side are joined. Of
an answer edited or generated again, the branch shown last is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from data_prep.raw_chats import RawChat, RawTurn, SourceReport
from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.turns import read_key, read_turn

MESSAGE_TYPES = ("text", "multimodal_text")
"""ChatGPT content types addressed to the other side; others are thoughts, tool code and tool output."""


def _chatgpt(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    mapping = row.get("mapping")
    if not isinstance(mapping, dict):
        return "no `mapping` object"
    branch = _branch(mapping, row.get("current_node"))
    messages = [message for node in branch if (message := _message_of(node)) is not None]
    return _chat(row, messages, place, report, "conversation_id", "id")


def _branch(mapping: dict[str, Any], last: Any) -> list[dict[str, Any]]:
    """Returns the path from the root to the message shown last or, if that is not stated, to the last leaf."""
    node = mapping.get(last) if isinstance(last, str) else None
    if node is None:
        leaves = [
            candidate
            for candidate in mapping.values()
            if isinstance(candidate, dict) and not candidate.get("children")
        ]
        node = leaves[-1] if leaves else None
    branch: list[dict[str, Any]] = []
    while isinstance(node, dict) and len(branch) <= len(mapping):
        branch.append(node)
        parent = node.get("parent")
        node = mapping.get(parent) if isinstance(parent, str) else None
    return branch[::-1]


def _message_of(node: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the message of a node as `{role, content}`; None if it is not addressed to the other side."""
    message = node.get("message")
    if not isinstance(message, dict):
        return None
    author, content, metadata = (message.get(name) or {} for name in ("author", "content", "metadata"))
    if not all(isinstance(part, dict) for part in (author, content, metadata)):
        return {}
    is_aside = message.get("recipient") not in (None, "all") or metadata.get(
        "is_visually_hidden_from_conversation"
    )
    if is_aside or author.get("role") == "tool" or content.get("content_type", "text") not in MESSAGE_TYPES:
        return None
    parts = content.get("parts")
    return {"role": author.get("role"), "content": parts if parts else ""}


def _claude(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    rows = row.get("chat_messages")
    if not isinstance(rows, list):
        return "no `chat_messages` list"
    messages = [_claude_message(message) if isinstance(message, dict) else {} for message in rows]
    return _chat(row, messages, place, report, "uuid")


def _claude_message(message: dict[str, Any]) -> dict[str, Any]:
    parts = message.get("content")
    if not isinstance(parts, list) or not parts:
        return {"role": message.get("sender"), "content": message.get("text") or ""}
    text_parts = [part for part in parts if not isinstance(part, dict) or part.get("type", "text") == "text"]
    return {"role": message.get("sender"), "content": text_parts or ""}


def _chat(
    row: dict[str, Any], messages: list[dict[str, Any]], place: str, report: SourceReport, *names: str
) -> RawChat | str:
    turns: list[RawTurn] = []
    for message in messages:
        turn = read_turn(message)
        if isinstance(turn, str):
            return turn
        if turn.text.strip():
            turns.append(turn)
    if not turns:
        return "no messages"
    return RawChat(
        id=read_key(row, *names) or f"{report.name}-{report.counts['rows']}",
        source=report.name,
        place=place,
        turns=tuple(_join_turns(turns)),
        ended_by="user",
    )


def _join_turns(turns: list[RawTurn]) -> Iterator[RawTurn]:
    for role, group in groupby(turns, key=lambda turn: turn.role):
        yield RawTurn(role=role, text="\n\n".join(turn.text for turn in group))


CHATGPT = ChatFormat(
    "chatgpt", lambda row: isinstance(row.get("mapping"), dict), row_by_row(_chatgpt), name="chatgpt"
)
CLAUDE = ChatFormat(
    "claude", lambda row: isinstance(row.get("chat_messages"), list), row_by_row(_claude), name="claude"
)
