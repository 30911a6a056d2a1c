"""Dialect of azure-ai-evaluation's Simulator: one system message in, JSON with `content` and `role` out.

The client has no stop marker, so the end is banned. Its other prompt, which makes questions from a text, is not
supported.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from serve.api.dialects.histories import from_items
from serve.api.dialects.parsed_prompt import ParsedPrompt, StopMarker, as_goal, unrecognised
from usersim.types import Turn, UserTurn
from usersim.users.protocols import as_profile

SIGNATURE = "You should behave as a user who is planning to accomplish this task:"
AFTER_TASK = " and you continue to interact with a system"
HISTORY = re.compile(r"given the conversation history:\s*\n(.*)")
REWRITE = "rewrite the assistant's message"
NO_TASKS = ("", "None", "Continue the conversation")
KEYS = frozenset({"content", "role"})


def recognises(text: str) -> bool:
    return text.lstrip().startswith(SIGNATURE)


def read(text: str) -> ParsedPrompt:
    task, task_end, rest = text.partition(SIGNATURE)[2].partition(AFTER_TASK)
    history = HISTORY.search(rest)
    if not task_end or not history:
        raise unrecognised("no task or no history in the format of Azure's simulator")
    goal_text = "" if task.strip() in NO_TASKS else task
    turns = _turns(history[1].strip())
    goal = as_goal(goal_text)
    if REWRITE in rest[history.end() :]:
        # Not a turn of the assistant: the question with which the user opens.
        question = turns[0].text if turns else ""
        goal, turns = as_goal(goal_text, [question]) or as_goal(question), []
    stop_marker = StopMarker.from_instructions("")
    return ParsedPrompt(
        as_profile(goal), turns, lambda turn: _format_reply(stop_marker, turn), reply_keys=KEYS, may_end=False
    )


def _format_reply(stop_marker: StopMarker, turn: UserTurn) -> str:
    """JSON reply with escapes: the client replaces apostrophes, curly quotes and the word None in the raw text."""
    text = json.dumps({"content": stop_marker.content(turn), "role": "user"})
    return text.replace("'", "\\u0027").replace("None", "\\u004eone")


def _turns(line: str) -> list[Turn]:
    """Parses the history: a Python list on one line, as the client's template prints it, or JSON."""
    try:
        items = json.loads(line)
    except (ValueError, RecursionError):
        items = _literal(line)
    try:
        return from_items(items)
    except (KeyError, TypeError) as error:
        raise unrecognised("the history is not a list of messages with role and content") from error


def _literal(line: str) -> Any:
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise unrecognised("the history is neither a Python list nor JSON") from error
