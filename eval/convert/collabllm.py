"""Conversations of CollabLLM: the logs of its evaluation, and its multi-turn data sets of scored replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from eval.convert.files import rows
from eval.convert.turns import Converted, Excluded, conversation
from usersim.types import Conversation, EndedBy, Goal, UserProfile

FUTURES = "sampled futures left out (they share their beginning)"


def convert(path: Path, *, source: str | None = None) -> Converted:
    """Converts four layouts, recognised row by row.

    - {index: {chat, qa}}: the first version of its evaluation
    - [[metrics, chat], …]: the later version
    - {single_turn_prompt, turns: [{prompt, responses}]}: the data engine
    - {conv_id, prompt, completion, score}: its flat rows

    Of scored replies the best is taken, of flat rows the longest of each conversation. The goal is the
    single-turn prompt.
    """
    converted, name = Converted(), source or "collabllm"
    return converted.take((key, partial(_one, row, name, converted)) for key, row in _latest(rows(path)))


def _latest(named_rows: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Reduces flat rows to one a conversation: the longest prompt, then the best score; other rows pass."""
    best: dict[str, tuple[tuple[int, float], Any]] = {}
    for key, row in named_rows:
        if not (isinstance(row, Mapping) and "conv_id" in row and "prompt" in row):
            yield key, row
            continue
        rank = (len(row["prompt"]), float(row.get("score") or 0))
        current_best = best.get(str(row["conv_id"]))
        if current_best is None or rank > current_best[0]:
            best[str(row["conv_id"])] = (rank, row)
    yield from ((name, row) for name, (_, row) in best.items())


def _one(row: Any, source: str, converted: Converted) -> Conversation:
    messages, prompt, ended_by = _row_parts(row, converted)
    goal = Goal(summary=prompt, provenance="collabllm single-turn prompt") if prompt.strip() else None
    if goal is None:
        converted.notes["no goal"] += 1
    return conversation(
        messages, source=source, ended_by=ended_by, profile=UserProfile(goal=goal), notes=converted.notes
    )


def _row_parts(row: Any, converted: Converted) -> tuple[list[Any], str, EndedBy]:
    """Returns (messages, single-turn prompt or "", ending where no mark tells it)."""
    if isinstance(row, list) and len(row) == 2 and isinstance(row[1], list):
        return row[1], "", "turn_cap"
    if not isinstance(row, Mapping):
        raise Excluded("no CollabLLM layout that is known")
    prompt = str(row.get("single_turn_prompt") or "")
    if "chat" in row:
        return list(row["chat"] or []), prompt or _question(row.get("qa")), "turn_cap"
    if "prompt" in row and "completion" in row:
        return [*row["prompt"], _reply(row)], prompt, "unknown"
    if row.get("turns"):
        last = row["turns"][-1]
        replies = last.get("responses") or []
        converted.notes[FUTURES] += sum(len(reply.get("sessions") or []) for reply in replies)
        best = max(replies, key=lambda reply: float(reply.get("score") or 0), default=None)
        return [*last["prompt"], *([] if best is None else [_reply(best)])], prompt, "unknown"
    raise Excluded("no CollabLLM layout that is known")


def _reply(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": row.get("completion")}


def _question(pair: Any) -> str:
    """Returns the user's side of the single-turn pair."""
    messages = pair if isinstance(pair, list) else []
    texts = (m.get("content") for m in messages if isinstance(m, Mapping) and m.get("role") == "user")
    return str(next(texts, "") or "")
