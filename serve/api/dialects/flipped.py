"""Dialect of chats with a system message: tau-bench, tau2, LangWatch scenario, openevals, inspect and similar clients.

Flipped: the agent under test speaks as `user`, and last; the simulated user speaks as `assistant`. Native: the roles
are true, and the agent speaks last as `assistant`. Tool calls and results are left out, since a person does not see
them; text beside them is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve.api.chat_schemas import ChatMessage
from serve.api.dialects.histories import alternating
from serve.api.dialects.parsed_prompt import (
    EMPTY_TURN,
    ParsedPrompt,
    StopMarker,
    names_end_marker,
    unrecognised,
)
from serve.api.dialects.wrappers import UnwrappedPrompt, unwrap
from serve.http.errors import RequestError
from usersim.types import Turn, UserTurn
from usersim.users.guards import ASSISTANT_SPEAK
from usersim.users.protocols import as_profile

OPENEVALS_OPENING = "Generate an initial query to start a conversation"
"""Message of openevals for an empty history; not a turn of the agent."""
RESPONSE_HEADER = "User Response:"
JUDGES = ("You are a supervisor of the Agent", "You are a Conversation Completion Checker")


def read(messages: Sequence[ChatMessage]) -> ParsedPrompt:
    """Parses a flipped chat; raises RequestError for any other prompt."""
    system, spoken = _split(messages)
    if not system and len(spoken) == 1:
        raise unrecognised("a single message without a system message that holds the user's goal")
    if len(spoken) == 1 and spoken[0].text.startswith(OPENEVALS_OPENING):
        spoken = []
    unwrapped = unwrap(system)
    thinks_aloud = unwrapped.flips_roles and RESPONSE_HEADER in unwrapped.rules
    return _parsed_prompt(unwrapped, history(spoken, thinks_aloud=thinks_aloud), thinks_aloud=thinks_aloud)


def read_native(messages: Sequence[ChatMessage]) -> ParsedPrompt:
    system, spoken = _split(messages)
    turns = [
        Turn(role="user" if message.role == "user" else "assistant", text=message.text) for message in spoken
    ]
    return _parsed_prompt(unwrap(system), alternating(turns))


def history(spoken: Sequence[ChatMessage], *, thinks_aloud: bool = False) -> list[Turn]:
    """Converts flipped messages to turns; consecutive messages of one side become one turn."""
    if spoken and spoken[-1].role == "assistant":
        raise RequestError(
            "roles are flipped here: the agent speaks as `user`, and speaks last; "
            "with true roles, call /v1/user/turns",
            param="messages",
        )
    read_own = _strip_thought if thinks_aloud else str
    turns = [
        Turn(role="user", text=read_own(message.text))
        if message.role == "assistant"
        else Turn(role="assistant", text=message.text)
        for message in spoken
    ]
    return alternating(turns)


def is_native(messages: Sequence[ChatMessage]) -> bool:
    """The agent spoke last, with true roles; not so where a client is known to flip them, nor where the `user`
    greets as agents do: there the simulated user spoke last."""
    system, spoken = _split(messages)
    if not spoken or spoken[-1].role != "assistant" or unwrap(system).flips_roles:
        return False
    first = next((message for message in spoken if message.role == "user"), None)
    return first is None or not ASSISTANT_SPEAK.search(first.text)


def is_opening(system: str) -> bool:
    """Returns True if a single system message looks like a request for a user's opening turn."""
    return unwrap(system).flips_roles or names_end_marker(system, only_explicit=True)


def _split(messages: Sequence[ChatMessage]) -> tuple[str, list[ChatMessage]]:
    spoken = [message for message in messages if not message.is_tool_traffic]
    system = []
    while spoken and spoken[0].role in ("system", "developer"):
        system.append(spoken.pop(0).text)
    if any(message.role in ("system", "developer") for message in spoken):
        raise RequestError("system messages come first", param="messages")
    text = "\n\n".join(system)
    if text.lstrip().startswith(JUDGES):
        raise unrecognised("this is a judge's prompt, and this model plays a user; send it to another model")
    return text, spoken


def _parsed_prompt(
    unwrapped: UnwrappedPrompt, turns: list[Turn], *, thinks_aloud: bool = False
) -> ParsedPrompt:
    stop_marker = StopMarker.from_instructions(unwrapped.rules)

    def format_reply(turn: UserTurn) -> str:
        if turn.ends or not thinks_aloud:
            return stop_marker.content(turn)
        return f"{RESPONSE_HEADER}\n{_strip_thought(stop_marker.content(turn))}"

    return ParsedPrompt(
        as_profile(unwrapped.goal, unwrapped.persona), turns, format_reply, may_end=unwrapped.has_stop_marker
    )


def _strip_thought(text: str) -> str:
    """Reply without the thought of tau-bench's `react` users; their client splits at these headers."""
    return text.rpartition(RESPONSE_HEADER)[2].rpartition("Thought:")[2].strip() or EMPTY_TURN
