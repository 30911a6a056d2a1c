"""A person's own export of ChatGPT (`conversations.json`, a tree of messages) or of Claude (`chat_messages`).

What a model thought, what tools were told and said, and what is hidden on the page are left out; neighbours of one
side that are left are one turn. A conversation with an answer edited or drawn again keeps the branch last shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from data_prep.raw_chats import RawChat, RawTurn, SourceReport
from data_prep.sources.corpus import Corpus, row_by_row
from data_prep.sources.turns import read_key, read_turn

SPOKEN = ("text", "multimodal_text")
"""Types of content of ChatGPT that are said to the other side; others are thoughts, code for tools and their output."""


def _chatgpt(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    mapping = row.get("mapping")
    if not isinstance(mapping, dict):
        return "no `mapping` object"
    branch = _branch(mapping, row.get("current_node"))
    messages = [message for node in branch if (message := _said(node)) is not None]
    return _chat(row, messages, place, report, "conversation_id", "id")


def _branch(mapping: dict[str, Any], last: Any) -> list[dict[str, Any]]:
    """From the root to the message last shown; where that is not told, to the last one written."""
    node = mapping.get(last) if isinstance(last, str) else None
    if node is None:
        leaves = [one for one in mapping.values() if isinstance(one, dict) and not one.get("children")]
        node = leaves[-1] if leaves else None
    branch: list[dict[str, Any]] = []
    while isinstance(node, dict) and len(branch) <= len(mapping):
        branch.append(node)
        parent = node.get("parent")
        node = mapping.get(parent) if isinstance(parent, str) else None
    return branch[::-1]


def _said(node: dict[str, Any]) -> dict[str, Any] | None:
    """The message of a node as `{role, content}`, unless it is nothing that one side said to the other."""
    message = node.get("message")
    if not isinstance(message, dict):
        return None
    author, content, metadata = (message.get(name) or {} for name in ("author", "content", "metadata"))
    if not all(isinstance(part, dict) for part in (author, content, metadata)):
        return {}
    is_aside = message.get("recipient") not in (None, "all") or metadata.get(
        "is_visually_hidden_from_conversation"
    )
    if is_aside or author.get("role") == "tool" or content.get("content_type", "text") not in SPOKEN:
        return None
    parts = content.get("parts")
    return {"role": author.get("role"), "content": parts if parts else ""}


def _claude(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    given = row.get("chat_messages")
    if not isinstance(given, list):
        return "no `chat_messages` list"
    messages = [_of_claude(message) if isinstance(message, dict) else {} for message in given]
    return _chat(row, messages, place, report, "uuid")


def _of_claude(message: dict[str, Any]) -> dict[str, Any]:
    parts = message.get("content")
    if not isinstance(parts, list) or not parts:
        return {"role": message.get("sender"), "content": message.get("text") or ""}
    spoken = [part for part in parts if not isinstance(part, dict) or part.get("type", "text") == "text"]
    return {"role": message.get("sender"), "content": spoken or ""}


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
        turns=tuple(_joined(turns)),
        ended_by="user",
    )


def _joined(turns: list[RawTurn]) -> Iterator[RawTurn]:
    for role, same in groupby(turns, key=lambda turn: turn.role):
        yield RawTurn(role=role, text="\n\n".join(turn.text for turn in same))


CHATGPT = Corpus(
    "chatgpt", lambda row: isinstance(row.get("mapping"), dict), row_by_row(_chatgpt), name="chatgpt"
)
CLAUDE = Corpus(
    "claude", lambda row: isinstance(row.get("chat_messages"), list), row_by_row(_claude), name="claude"
)
