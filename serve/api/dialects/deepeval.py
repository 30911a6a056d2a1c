"""Dialect of DeepEval's ConversationSimulator: one prompt in, JSON with `simulated_input` out.

The client has no stop marker, so the end is banned in a turn. Instead it asks the same model whether an expected
outcome was reached. A User LM does not judge. Under this dialect's alias the question is answered by P(end) against
the threshold of the end policy, with the expected outcome as goal. The `reason` says so.
"""

from __future__ import annotations

import json
import re

from serve.api.dialects.histories import from_items
from serve.api.dialects.parsed_prompt import ParsedPrompt, StopMarker, unrecognised
from usersim.types import Turn, UserTurn
from usersim.users.protocols import as_profile

SIGNATURE = "Pretend you are a user of an LLM app."
JUDGE = "You are a Conversation Completion Checker."
# The prompt's examples come first, under "Example Language".
TASK = re.compile(r"^[ \t]*Language: .*$", re.MULTILINE)
PERSONA = re.compile(r"\A\s*<persona>\n(.*?)\n[ \t]*</persona>\s*(?=Scenario: \")", re.DOTALL)
USER_PROFILE = re.compile(r"\A\s*User Profile: \"(.*?)\"\s*(?=Scenario: \")", re.DOTALL)
SCENARIO = re.compile(r"\A\s*Scenario: \"")
HISTORY = re.compile(r"\"\s*(?:Previous Conversation|Conversation History):\s*")
OUTCOME = re.compile(r"^[ \t]*Expected Outcome: \"", re.MULTILINE)
CLOSING = "JSON Output:"
KEYS = frozenset({"simulated_input"})
JUDGE_KEYS = frozenset({"is_complete", "reason"})


def recognises(text: str) -> bool:
    return text.lstrip().startswith(SIGNATURE)


def read(text: str) -> ParsedPrompt:
    if text.lstrip().startswith(JUDGE):
        return _read_judge(text)
    task = TASK.search(text)
    if not recognises(text) or not task:
        raise unrecognised("not a prompt of DeepEval's conversation simulator")
    rest, persona = text[task.end() :], None
    if persona_match := PERSONA.match(rest) or USER_PROFILE.match(rest):
        rest, persona = rest[persona_match.end() :], persona_match[1].strip()
    scenario_match = SCENARIO.match(rest)
    if not scenario_match:
        raise unrecognised("no scenario in DeepEval's format")
    scenario, history = _quoted_and_history(rest[scenario_match.end() :])
    stop_marker = StopMarker.from_instructions("")

    def format_reply(turn: UserTurn) -> str:
        return json.dumps({"simulated_input": stop_marker.content(turn)}, ensure_ascii=False)

    profile = as_profile(_text_or_empty(scenario), _text_or_empty(persona))
    return ParsedPrompt(profile, history, format_reply, reply_keys=KEYS, may_end=False)


def _read_judge(text: str) -> ParsedPrompt:
    outcomes = list(OUTCOME.finditer(text))
    if not outcomes:
        raise unrecognised("no expected outcome in DeepEval's format")
    outcome, history = _quoted_and_history(text[outcomes[0].end() :])
    return ParsedPrompt(
        as_profile(_text_or_empty(outcome)),
        history,
        _format_verdict,
        reply_keys=JUDGE_KEYS,
        only_termination=True,
    )


def _format_verdict(turn: UserTurn) -> str:
    decision = "would leave" if turn.ends else "would stay"
    reason = f"the simulated user {decision} here; P(end) is {turn.end_probability:.3f}"
    return json.dumps({"is_complete": turn.ends, "reason": reason})


def _quoted_and_history(rest: str) -> tuple[str, list[Turn]]:
    """Splits the text into the quoted part and the history: the first heading that is followed by JSON to the end."""
    rest = rest.rstrip().removesuffix(CLOSING).rstrip()
    for mark in HISTORY.finditer(rest):
        try:
            return rest[: mark.start()], from_items(json.loads(rest[mark.end() :]))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return rest.removesuffix('"'), []


def _text_or_empty(text: str | None) -> str:
    """Text of a field; empty for "None", which the client's template prints for a missing value."""
    return "" if text is None or text.strip() == "None" else text.strip()
