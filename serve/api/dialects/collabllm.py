"""Dialect of CollabLLM and verl's recipe: the whole conversation in one message, JSON with three keys out.

Only `response` is the user's turn. The other two keys are thoughts, which this model does not have, and stay empty.
The task description names a kind of task and is the goal only if the prompt has no other.
"""

from __future__ import annotations

import re

from serve.api.dialects.histories import between, from_transcript
from serve.api.dialects.parsed_prompt import EMPTY_TURN, ParsedPrompt, StopMarker, as_goal, unrecognised
from usersim.types import UserTurn
from usersim.users.protocols import as_profile

TERMINATE = "[[TERMINATE CHAT]]"
TASK = "<|The Start of Task Description"
GOAL = "<|The Start of Complete Prompt or Reference Goal"
SIGNATURE = "<|The Start of Chat History|>"
SPEAKER = re.compile(r"^\*\*(User|Assistant)\*\*: ?", re.MULTILINE)
KEYS = frozenset({"current_answer", "thought", "response"})
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})


def recognises(text: str) -> bool:
    return TASK in text and SIGNATURE in text


def read(text: str) -> ParsedPrompt:
    goal = between(text, GOAL, "<|The End of Complete Prompt or Reference Goal|>")
    # Up to the last closing mark: the agent's turns lie between the marks and may contain one.
    history = between(
        text, SIGNATURE, "<|The End of Chat History|>", start=goal.end if goal else 0, last=True
    )
    if not history:
        raise unrecognised("no chat history between CollabLLM's marks")
    task = between(text, TASK, "<|The End of Task Description|>")
    goal_text = (goal.text.strip() if goal else "") or (task.text if task else "")
    stop_marker = StopMarker.from_instructions(text[history.end :], default=TERMINATE)

    def format_reply(turn: UserTurn) -> str:
        response = keep_text(CONTROL_CHARACTERS.sub("", stop_marker.content(turn)).strip())
        return f'{{"current_answer": "", "thought": "", "response": "{response.translate(ESCAPES)}"}}'

    return ParsedPrompt(
        as_profile(as_goal(goal_text)), from_transcript(history.text, SPEAKER), format_reply, reply_keys=KEYS
    )


def keep_text(response: str) -> str:
    """Appends full stops to a response that the client's parser would read as number, boolean or null.

    The client fails on those types. "42." is a number to it, "42.." is not.
    """
    while response.lower() in ("true", "false", "null") or _is_number(response):
        response += "."
    return response or EMPTY_TURN


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
