"""Exports of ChatGPT and of Claude, and what other layouts do with thoughts, null columns and capitals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.raw_chats import RawChat, SourceReport
from data_prep.sources import open_source
from data_prep.sources.messages import read_message_row

TALK = [("user", "how to cook rice please"), ("assistant", "Boil it."), ("user", "thanks a lot")]


def read(path: Path, *rows: Any) -> list[RawChat]:
    path.write_text(json.dumps(list(rows)))
    return list(open_source(str(path)).chats)


def texts_of(chat: RawChat) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in chat.turns]


def node(parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    content = {"content_type": more.pop("content_type", "text"), "parts": [text]}
    return {
        "parent": parent,
        "children": [],
        "message": {"author": {"role": role}, "content": content, **more},
    }


MAPPING = {
    "r": {"parent": None, "children": ["a"], "message": None},
    "s": node("r", "system", ""),
    "a": node("s", "user", TALK[0][1]),
    "old": node("a", "assistant", "An answer that was drawn again."),
    "think": node("a", "assistant", "they want rice", content_type="thoughts"),
    "call": node("think", "assistant", "search('rice')", recipient="web"),
    "tool": node("call", "tool", "ten pages on rice"),
    "b": node("tool", "assistant", "Boil it."),
    "c": node("b", "user", "thanks a lot"),
}


@pytest.mark.parametrize("last", [{"current_node": "c"}, {}])
def test_an_export_of_chatgpt_is_the_branch_last_shown(tmp_path: Path, last: dict[str, str]) -> None:
    (chat,) = read(
        tmp_path / "conversations.json", {"title": "t", "conversation_id": "x1", "mapping": MAPPING} | last
    )
    assert texts_of(chat) == TALK
    assert (chat.id, chat.source, chat.ended_by) == ("x1", "chatgpt", "user")


def test_a_circle_in_an_export_ends() -> None:
    from data_prep.sources.exports import CHATGPT

    row = {"mapping": {"a": node("b", "user", "x"), "b": node("a", "assistant", "y")}, "current_node": "a"}
    assert list(CHATGPT.read(iter([("f:1", row)]), SourceReport(name="s", spec="s")))


def test_an_export_of_claude_leaves_thoughts_out(tmp_path: Path) -> None:
    parts = [{"type": "thinking", "thinking": "rice"}, {"type": "text", "text": "Boil it."}]
    messages = [
        {"sender": "human", "text": TALK[0][1], "content": [{"type": "text", "text": TALK[0][1]}]},
        {"sender": "assistant", "text": "Boil it.", "content": parts},
        {"sender": "human", "text": "thanks a lot", "content": []},
    ]
    (chat,) = read(tmp_path / "c.json", {"uuid": "u1", "name": "n", "chat_messages": messages})
    assert texts_of(chat) == TALK
    assert (chat.id, chat.source) == ("u1", "claude")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [
            {"type": "reasoning", "text": "they greet"}, {"type": "text", "text": "Yes?"}]}]},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "they greet"}, {"type": "text", "text": "Yes?"}]}]},
        {"conversations": [{"from": "human", "value": "hi", "role": None, "content": None},
                           {"from": "gpt", "value": "Yes?", "role": None, "content": None}]},
        {"conversations": [{"from": "User", "value": "hi"}, {"from": "Assistant", "value": "Yes?"}]},
    ],
)  # fmt: skip
def test_thoughts_null_columns_and_capitals(row: dict[str, Any]) -> None:
    chat = read_message_row(row, "f:1", SourceReport(name="s", spec="s"))
    assert isinstance(chat, RawChat)
    assert texts_of(chat) == [("user", "hi"), ("assistant", "Yes?")]
