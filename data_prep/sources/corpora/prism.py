"""PRISM, config `conversations`: at each turn the person read one to four replies and chose one.

The chosen reply is kept. A missing choice in the last turn means that the person left before choosing; the chat then
ends with their message. Participants were paid for a few turns. The end is theirs, but early ends are rarer than in
unpaid chats.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from data_prep.raw_chats import RawChat, RawTurn, SourceReport
from data_prep.sources.corpus import ChatFormat, row_by_row
from data_prep.sources.turns import read_flags, read_key, read_turn


def recognises(row: dict[str, Any]) -> bool:
    return isinstance(row.get("conversation_history"), list)


def _chat(row: dict[str, Any], place: str, report: SourceReport) -> RawChat | str:
    history = row.get("conversation_history")
    if not isinstance(history, list):
        return "no `conversation_history` list"
    if not all(isinstance(message, dict) for message in history):
        return "a message is not an object"
    turns = _turns(history)
    id_ = read_key(row, "conversation_id")
    if isinstance(turns, str) or id_ is None:
        return turns if isinstance(turns, str) else "no conversation_id"
    return RawChat(
        id=id_,
        source=report.name,
        place=place,
        turns=turns,
        user_key=read_key(row, "user_id"),
        flags=read_flags(row),
        ended_by="user",
    )


def _turns(history: list[dict[str, Any]]) -> tuple[RawTurn, ...] | str:
    turns: list[RawTurn] = []
    for _, group in groupby(history, key=lambda message: message.get("turn")):
        exchange = list(group)
        prompts = [message for message in exchange if message.get("role") == "user"]
        reply = _chosen(message for message in exchange if message.get("role") != "user")
        if len(prompts) != 1:
            return "a turn without exactly one user message"
        if turns and turns[-1].role == "user":
            return "a turn without a chosen reply"
        for message in (*prompts, *([reply] if reply else [])):
            turn = read_turn(message)
            if isinstance(turn, str):
                return turn
            turns.append(turn)
    return tuple(turns) or "no messages"


def _chosen(replies: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    candidates = list(replies)
    # Not `is True`: a table with missing values stores it as 1.0.
    chosen = [reply for reply in candidates if reply.get("if_chosen") in (True,)]
    # A single reply was no choice, but the person continued from it.
    return chosen[0] if chosen else candidates[0] if len(candidates) == 1 else None


PRISM = ChatFormat("prism", recognises, row_by_row(_chat), name="prism", config="conversations")
