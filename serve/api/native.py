"""Routes `/v1/user/…`: the endpoint's own dialect, with true roles."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from serve.api.responses import (
    BatchResponse,
    BatchResult,
    ChunkChoice,
    CompletionUsage,
    ContentToken,
    Delta,
    ErrorFacts,
    LikelyToken,
    ProfilesResponse,
    PromptFacts,
    TerminationResponse,
    TokenLogprobs,
    UserMessage,
    UserTurnChoice,
    UserTurnChunk,
    UserTurnResponse,
)
from serve.api.service import Service, usage
from serve.api.streaming import EventStream, error_body
from serve.http import request_context
from serve.http.errors import RequestError, error_envelope
from serve.http.strict_json import StrictRoute
from serve.schemas import BatchRequest, ProfilesRequest, TerminationRequest, UserTurnRequest
from usersim.errors import UsersimError
from usersim.rendering.token_text import DetailedTurn, TokenLogprob
from usersim.types import UserTurn
from usersim.users.protocols import TurnPiece

log = logging.getLogger(__name__)
STREAM_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The turns. With `stream: true` server-sent events, each a `user.turn.chunk`. The first choice "
        "has `end_of_conversation_prob`, the next have `delta.content`, the last has `finish_reason` and the other "
        "fields of a turn; then `[DONE]`. An error during the stream is an event with `error`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def router(service: Service) -> APIRouter:
    routes = APIRouter(route_class=StrictRoute, tags=["user"])

    @routes.post(
        "/v1/user/turns",
        summary="The next user turn, n alternatives for it, or a stream",
        response_model=UserTurnResponse,
        responses=STREAM_RESPONSE,
    )
    async def user_turns(request: UserTurnRequest) -> Response:
        if request.stream:
            head = _head(service, request.model)  # refuses an unknown model before the stream starts
            return EventStream(_chunks(service, request, head))
        answer = await _turns(service, request)
        # Serialised here: FastAPI would validate the whole response once more.
        return Response(answer.model_dump_json(), media_type="application/json")

    @routes.post("/v1/user/turns/batch", summary="Independent turns; each has its own result or error")
    async def batch(request: BatchRequest) -> BatchResponse:
        results = await asyncio.gather(*(_item(service, *item) for item in enumerate(request.items)))
        return BatchResponse(id=f"utb_{uuid.uuid4().hex}", created=int(time.time()), results=results)

    @routes.post("/v1/user/termination", summary="P(end): would the user leave now? Samples no text")
    async def termination(request: TerminationRequest) -> TerminationResponse:
        head = _head(service, request.model)
        termination = await service.termination(
            request.profile(),
            request.turns(),
            request.end_of_conversation,
            affinity=request.conversation_id,
        )
        tokens = termination.prompt_tokens
        return TerminationResponse(
            **head,
            end_of_conversation=termination.ends,
            end_of_conversation_prob=termination.end_probability,
            usage=CompletionUsage(prompt_tokens=tokens, completion_tokens=1, total_tokens=tokens + 1),
            prompt=_prompt(service),
        )

    @routes.post(
        "/v1/user/profiles",
        summary="Users drawn from the model's population: persona, style and patience",
        response_model_exclude_none=True,
    )
    async def profiles(request: ProfilesRequest) -> ProfilesResponse:
        head = _head(service, request.model)
        seed = random.getrandbits(53) if request.seed is None else request.seed
        population = service.population_of(head["model"])
        profiles = await asyncio.to_thread(population.sample, request.n, seed)
        return ProfilesResponse(**head, seed=seed, distance=population.distance, profiles=profiles)

    return routes


def _head(service: Service, model: str | None) -> dict[str, Any]:
    """Fields that begin every response; raises RequestError for an unknown model."""
    name = service.check_model(model)
    return {
        "model": name,
        "id": f"ut_{uuid.uuid4().hex}",
        "created": int(time.time()),
        "system_fingerprint": service.fingerprint(name),
    }


async def _turns(service: Service, request: UserTurnRequest) -> UserTurnResponse:
    head = _head(service, request.model)
    turns = await service.turns(
        request.profile(),
        request.turns(),
        request,
        max_tokens=request.max_tokens,
        affinity=request.conversation_id,
        logprobs=request.logprob_count,
        act=request.act,
    )
    return UserTurnResponse(
        **head,
        choices=[_choice(index, turn, request) for index, turn in enumerate(turns)],
        usage=usage(turns),
        prompt=_prompt(service),
    )


async def _item(service: Service, index: int, fields: dict[str, Any]) -> BatchResult:
    """Result of one item, its body or its error. Raises only when cancelled."""
    try:
        request = UserTurnRequest.model_validate(fields)
        if request.stream:
            raise RequestError("an item of a batch cannot be a stream", param="stream")
        return BatchResult(index=index, status=200, body=await _turns(service, request))
    except ValidationError as error:
        if (context := request_context.current()) is not None:
            context.count_turns(1)  # counted like a valid item
        failure: Exception = RequestValidationError(error.errors())
    except Exception as error:
        if not isinstance(error, (UsersimError, RequestError)):
            log.exception("item %d of a batch", index)
        failure = error
    facts = ErrorFacts.model_validate(error_body(failure)["error"])
    return BatchResult(index=index, status=error_envelope(failure).status, error=facts)


async def _chunks(
    service: Service, request: UserTurnRequest, head: dict[str, Any]
) -> AsyncGenerator[dict[str, Any], None]:
    events = service.stream(
        request.profile(),
        request.turns(),
        request,
        max_tokens=request.max_tokens,
        affinity=request.conversation_id,
        logprobs=request.logprob_count is not None,
        act=request.act,
    )
    role: Delta | None = Delta(role="user", content="")
    async with aclosing(events):
        async for event in events:
            if isinstance(event, TurnPiece):
                choice = ChunkChoice(
                    delta=role or Delta(content=event.text), **_tokens(event.tokens, request)
                )
                if role:
                    choice.end_of_conversation_prob, role = event.end_probability, None
                yield _chunk(head, [choice])
                continue
            last = ChunkChoice(delta=Delta(), **_facts(event))
            yield _chunk(head, [last], prompt=_prompt(service))
            if request.stream_options and request.stream_options.include_usage:
                yield _chunk(head, [], usage=usage([event]))


def _chunk(head: dict[str, Any], choices: list[ChunkChoice], **more: Any) -> dict[str, Any]:
    return UserTurnChunk(**head, choices=choices, **more).model_dump(exclude_none=True)


def _choice(index: int, turn: UserTurn, request: UserTurnRequest) -> UserTurnChoice:
    extras = _tokens(turn.trace, request) if isinstance(turn, DetailedTurn) else {}
    message = UserMessage(content=turn.text)
    return UserTurnChoice(index=index, message=message, **_facts(turn), **extras)


def _facts(turn: UserTurn) -> dict[str, Any]:
    """The fields of `TurnFacts`."""
    return {
        "finish_reason": "end_of_conversation" if turn.finish == "end" else turn.finish,
        "end_of_conversation": turn.ends,
        "end_of_conversation_prob": turn.end_probability,
        "logprob": turn.logprob,
        "tokens": turn.tokens,
        "seed": turn.seed,
        "rejected": turn.rejected,
        "drawn_tokens": turn.drawn_tokens,
    }


def _tokens(trace: tuple[TokenLogprob, ...], request: UserTurnRequest) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    if request.logprobs:
        tops = [[LikelyToken(**_token(candidate)) for candidate in token.top] for token in trace]
        content = [ContentToken(**_token(t), top_logprobs=top) for t, top in zip(trace, tops, strict=True)]
        extras["logprobs"] = TokenLogprobs(content=content)
    if request.return_token_ids:
        extras["token_ids"] = [token.id for token in trace]
    return extras


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"id": token.id, "token": token.text, "bytes": list(token.bytes), "logprob": token.logprob}


def _prompt(service: Service) -> PromptFacts:
    renderer = service.user.renderer
    return PromptFacts(template=renderer.settings.template, fingerprint=renderer.fingerprint)
