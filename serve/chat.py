"""`POST /v1/chat/completions`: the simulated user behind OpenAI's interface, with flipped roles as in tau2.

The system message is the goal, the agent under test speaks as `user`, the simulated user as `assistant`. When
the end of the conversation was sampled, the whole content is the marker that the system message asks for.
"""

from __future__ import annotations

import re
import time
import uuid

from fastapi import APIRouter

from serve.errors import RequestError
from serve.schemas import ChatChoice, ChatMessage, ChatRequest, ChatResponse, ChatSaid
from serve.service import Service, usage
from serve.strict import StrictRoute
from usersim.sampling import as_profile
from usersim.types import Turn, UserTurn

STOP = "###STOP###"
MARKER = re.compile(r"###[A-Z][A-Z_-]*###|\[\[[A-Z][A-Z _-]*\]\]|<\|[A-Z][A-Z_-]*\|>")
MAX_TOKENS = 4096


def router(service: Service) -> APIRouter:
    routes = APIRouter(route_class=StrictRoute, tags=["openai"])

    @routes.post("/v1/chat/completions", summary="The simulated user as an OpenAI chat model, roles flipped")
    async def chat_completions(request: ChatRequest) -> ChatResponse:
        model = service.check_model(request.model)
        refuse_unsupported(request)
        system, history = flip(request.messages)
        asked = request.max_completion_tokens or request.max_tokens
        turns = await service.turns(
            as_profile(request.goal or system, request.persona),
            history,
            request,
            max_tokens=asked and min(asked, MAX_TOKENS),
        )
        marker = stop_marker(system)
        return ChatResponse(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model,
            choices=[_choice(index, turn, marker) for index, turn in enumerate(turns)],
            usage=usage(turns),
        )

    @routes.get("/v1/models")
    async def models() -> dict[str, object]:
        listed = [
            {"id": name, "object": "model", "created": service.started, "owned_by": "usersim"}
            for name in service.names
        ]
        return {"object": "list", "data": listed}

    return routes


def refuse_unsupported(request: ChatRequest) -> None:
    """What would silently change the meaning of the answer; an empty list of tools does not."""
    if request.tools:
        raise RequestError(
            "this model plays a user and calls no tools", code="tools_not_supported", param="tools"
        )
    if request.stream:
        raise RequestError("streaming is not supported", code="stream_not_supported", param="stream")
    if request.logprobs:
        raise RequestError("logprobs are not supported", code="logprobs_not_supported", param="logprobs")
    if request.response_format and request.response_format.get("type") != "text":
        raise RequestError(
            "only response_format text: the answer is what a user types",
            code="response_format_not_supported",
            param="response_format",
        )


def flip(messages: list[ChatMessage]) -> tuple[str, list[Turn]]:
    """(the system text, the conversation with true roles); raises RequestError where this is no such chat."""
    spoken = list(messages)
    system = []
    while spoken and spoken[0].role in ("system", "developer"):
        system.append(spoken.pop(0).text)
    if not system and len(spoken) == 1:
        raise RequestError(
            "a lone message without a system message that says what the user wants",
            code="unrecognized_prompt",
            param="messages",
            status=422,
        )
    turns: list[Turn] = []
    for message in spoken:
        if message.role not in ("user", "assistant"):
            raise RequestError("system messages come first", param="messages")
        turns.append(Turn(role="assistant" if message.role == "user" else "user", text=message.text))
    if turns and turns[-1].role == "user":
        raise RequestError(
            "roles are flipped here: the agent speaks as `user`, and speaks last; "
            "with true roles, call /v1/user/turns",
            param="messages",
        )
    return "\n\n".join(system), turns


def stop_marker(system: str) -> str:
    """The client's word for the end, found in its instructions; ###STOP### where several or none are."""
    found = MARKER.findall(system)
    return found[0] if found and STOP not in found else STOP


def _choice(index: int, turn: UserTurn, marker: str) -> ChatChoice:
    return ChatChoice(
        index=index,
        message=ChatSaid(content=marker if turn.ends else _without(marker, turn.text)),
        finish_reason="length" if turn.finish == "length" else "stop",
        end_of_conversation=turn.ends,
        end_of_conversation_prob=turn.end_probability,
        logprob=turn.logprob,
        tokens=turn.tokens,
        seed=turn.seed,
        rejected=turn.rejected,
    )


def _without(marker: str, text: str) -> str:
    """A user who copies the marker out of its goal must not end the client's run; nor may a turn be empty."""
    return text.replace(marker, "").strip() or "…" if marker in text else text
