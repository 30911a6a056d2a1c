"""`POST /compat/promptfoo/task`: the route that promptfoo's simulated user calls in promptfoo's cloud.

Point it here with PROMPTFOO_REMOTE_GENERATION_URL. The history is flipped, and the end is ###STOP###.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from serve.api.chat_schemas import ChatMessage
from serve.api.dialects import flipped
from serve.api.dialects.parsed_prompt import DEFAULT_STOP_MARKER, StopMarker
from serve.api.dialects.wrappers import unwrap
from serve.api.service import Service, usage
from serve.http.errors import RequestError
from serve.http.strict_json import StrictRoute
from serve.schemas import MAX_MESSAGES, HashableFailFast, SamplingFields, Text
from usersim.users.protocols import as_profile

TASK = "tau"


class PromptfooMessage(BaseModel):
    role: Literal["user", "assistant"]
    content: Text


class PromptfooRequest(BaseModel):
    """promptfoo's request; its e-mail address and version are ignored."""

    task: str = Field(max_length=64)
    instructions: Text | None = None
    history: Annotated[list[PromptfooMessage], HashableFailFast()] = Field(
        default=[], max_length=MAX_MESSAGES
    )


class TokenUsage(BaseModel):
    prompt: int
    completion: int
    total: int
    numRequests: int = 1


class PromptfooResponse(BaseModel):
    result: str
    tokenUsage: TokenUsage


def router(service: Service) -> APIRouter:
    routes = APIRouter(route_class=StrictRoute, tags=["promptfoo"])

    @routes.post("/compat/promptfoo/task", summary="promptfoo's simulated user")
    async def task(request: PromptfooRequest) -> PromptfooResponse:
        if request.task != TASK:
            raise RequestError(
                f"the task {request.task!r} is not a simulated user's; only {TASK!r} is answered here",
                code="task_not_supported",
                param="task",
            )
        instructions = request.instructions or ""
        unwrapped = unwrap(instructions)
        spoken = [ChatMessage(role=message.role, content=message.content) for message in request.history]
        profile = as_profile(unwrapped.goal, unwrapped.persona)
        turns = await service.turns(profile, flipped.history(spoken), SamplingFields())
        token_counts = usage(turns)
        return PromptfooResponse(
            result=StopMarker.from_instructions(f"{instructions} {DEFAULT_STOP_MARKER}").content(turns[0]),
            tokenUsage=TokenUsage(
                prompt=token_counts.prompt_tokens,
                completion=token_counts.completion_tokens,
                total=token_counts.total_tokens,
            ),
        )

    return routes
