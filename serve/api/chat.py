"""`POST /v1/chat/completions`: the simulated user through OpenAI's interface, in the dialects of `serve.api.dialects`.

A turn that ends the conversation has as content the stop marker that the client's prompt names.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Response

from serve.api.chat_schemas import ChatChoice, ChatReply, ChatRequest, ChatResponse
from serve.api.dialects import aliases, dialect_of, read, served_name
from serve.api.dialects.parsed_prompt import ParsedPrompt
from serve.api.service import Service, usage
from serve.api.streaming import EventStream
from serve.http.errors import RequestError
from serve.http.strict_json import StrictRoute
from usersim.types import UserProfile, UserTurn
from usersim.users.protocols import EndPolicy, as_profile

MAX_TOKENS = 4096
UNSUPPORTED = {
    **dict.fromkeys(("logprobs", "top_logprobs", "prompt_logprobs", "logit_bias"), None),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "min_p", "min_tokens", "stop_token_ids"), None),
    **dict.fromkeys(("repetition_penalty", "length_penalty"), 1),
    **dict.fromkeys(("ignore_eos", "use_beam_search", "bad_words", "structured_outputs", "echo"), None),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), None),
    "modalities": ["text"],
    "audio": None,
}
"""Unsupported parameters of OpenAI and vLLM that would change the answer, each with its neutral value."""
MAX_IGNORED_NAMES = 20
HEADER_SAFE_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


def router(service: Service) -> APIRouter:
    routes = APIRouter(route_class=StrictRoute, tags=["openai"])

    @routes.post(
        "/v1/chat/completions",
        response_model=ChatResponse,
        summary="The simulated user as an OpenAI chat model, in the client's own dialect",
    )
    async def chat_completions(request: ChatRequest, response: Response) -> ChatResponse | EventStream:
        service.check_model(served_name(request.model, service.names))
        refuse_unsupported(request)
        dialect, prompt = read(dialect_of(request.model), request.messages)
        refuse_response_format(request, prompt)
        turns = await sample(service, request, prompt)
        answer = ChatResponse(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model,
            choices=[_choice(index, turn, prompt, request.stops) for index, turn in enumerate(turns)],
            usage=usage(turns),
        )
        headers = {"X-UserLM-Dialect": dialect}
        if warnings := _warnings(request, turns):
            headers["X-UserLM-Warning"] = ", ".join(warnings)
        if ignored := _ignored_names(request):
            headers["X-UserLM-Ignored"] = ", ".join(ignored)
        if request.stream:
            with_usage = bool(request.stream_options and request.stream_options.include_usage)
            stream = EventStream(chunks(answer, include_usage=with_usage))
            stream.headers.update(headers)
            return stream
        response.headers.update(headers)
        return answer

    @routes.get("/v1/models")
    async def models() -> dict[str, object]:
        listed = [
            {"id": name, "object": "model", "created": service.started, "owned_by": "usersim"}
            for name in aliases(service.names)
        ]
        return {"object": "list", "data": listed}

    return routes


async def sample(service: Service, request: ChatRequest, prompt: ParsedPrompt) -> list[UserTurn]:
    """Samples the request's turns; `goal` and `persona` of the request override those of the prompt."""
    request_profile = as_profile(request.goal, request.persona)
    profile = UserProfile(
        goal=request_profile.goal or prompt.profile.goal,
        persona=request_profile.persona or prompt.profile.persona,
    )
    affinity = request.conversation_id
    if prompt.only_termination:
        termination = await service.termination(
            profile, prompt.history, request.end_of_conversation, affinity=affinity
        )
        turn = UserTurn(
            text="",
            ends=termination.ends,
            end_probability=termination.end_probability,
            finish="end" if termination.ends else "stop",
            logprob=0.0,
            tokens=0,
            prompt_tokens=termination.prompt_tokens,
        )
        return [turn] * (request.n or 1)
    if not prompt.may_end and request.end_of_conversation is None:
        request = request.model_copy(update={"end_of_conversation": EndPolicy(mode="never")})
    limit = request.limit and min(request.limit, MAX_TOKENS)
    return await service.turns(profile, prompt.history, request, max_tokens=limit, affinity=affinity)


def refuse_unsupported(request: ChatRequest) -> None:
    """Raises RequestError for parameters that would change the meaning of the answer; empty tool lists are accepted."""
    for name in ("tools", "functions"):
        if getattr(request, name):
            raise RequestError(
                f"{name}: this model plays a user and calls no tools", code="tools_not_supported", param=name
            )
    for name, value in (request.model_extra or {}).items():
        if name in UNSUPPORTED and value and value != UNSUPPORTED[name]:
            code = f"{'logprobs' if name == 'top_logprobs' else name}_not_supported"
            raise RequestError(f"{name}: not supported here; leave it out", code=code, param=name)


def _ignored_names(request: ChatRequest) -> list[str]:
    """Unknown parameters of the request whose names fit into a header."""
    names = (name for name, value in (request.model_extra or {}).items() if value is not None)
    return [name for name in names if HEADER_SAFE_NAME.fullmatch(name) and name not in UNSUPPORTED][
        :MAX_IGNORED_NAMES
    ]


def _warnings(request: ChatRequest, turns: list[UserTurn]) -> list[str]:
    """Warnings for the response header.

    Temperature 0, a habit from prompting assistants, gives a user who always says the likeliest thing. Turns that the
    guards rejected (mostly repeats) were sampled again at a higher temperature: "drawn-warm".
    """
    if request.temperature != 0:
        return []
    return ["temperature-0", *(["drawn-warm"] if any(turn.rejected for turn in turns) else [])]


def refuse_response_format(request: ChatRequest, prompt: ParsedPrompt) -> None:
    """Raises RequestError for a response format other than the dialect's own."""
    response_format = request.response_format or {}
    if response_format.get("type", "text") == "text" or (
        prompt.reply_keys and response_format.get("type") == "json_object"
    ):
        return
    if (
        prompt.reply_keys
        and response_format.get("type") == "json_schema"
        and _properties(response_format) == prompt.reply_keys
    ):
        return
    keys = ", ".join(sorted(prompt.reply_keys))
    form = (
        f"the answer to this prompt is a JSON object with {keys}"
        if keys
        else "the answer is what a user types"
    )
    raise RequestError(
        f"response_format: {form}; leave it out",
        code="response_format_not_supported",
        param="response_format",
    )


def _properties(response_format: dict[str, Any]) -> frozenset[str]:
    try:
        return frozenset(response_format["json_schema"]["schema"]["properties"])
    except (KeyError, TypeError):
        return frozenset()


def _choice(index: int, turn: UserTurn, prompt: ParsedPrompt, stops: list[str]) -> ChatChoice:
    if (end := min((at for stop in stops if (at := turn.text.find(stop)) >= 0), default=None)) is not None:
        turn = turn.model_copy(update={"text": turn.text[:end].rstrip(), "finish": "stop"})
    return ChatChoice(
        index=index,
        message=ChatReply(content=prompt.format_reply(turn)),
        finish_reason="length" if turn.finish == "length" else "stop",
        end_of_conversation=turn.ends,
        end_of_conversation_prob=turn.end_probability,
        logprob=turn.logprob,
        tokens=turn.tokens,
        seed=turn.seed,
        rejected=turn.rejected,
    )


async def chunks(answer: ChatResponse, *, include_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
    """Chunks of a stream: for each choice its role, its text, and its finish reason with our extra fields.

    The text is one delta: only a finished turn is known to pass the guards and to hold no stop marker.
    """
    head: dict[str, Any] = answer.model_dump(include={"id", "created", "model"})
    head |= {"object": "chat.completion.chunk"} | ({"usage": None} if include_usage else {})
    for choice in answer.choices:
        for delta in ({"role": "assistant", "content": ""}, {"content": choice.message.content}):
            yield head | {"choices": [{"index": choice.index, "delta": delta, "finish_reason": None}]}
        yield head | {"choices": [choice.model_dump(exclude={"message"}) | {"delta": {}}]}
    if include_usage:
        yield head | {"choices": [], "usage": answer.usage.model_dump()}
