"""`POST /v1/chat/completions`: the simulated user behind OpenAI's interface, in the dialects of `serve.api.dialects`.

When the end of the conversation was sampled, the content is the marker that the client's own prompt asks for.
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
    **dict.fromkeys(("repetition_penalty", "length_penalty", "best_of"), 1),
    **dict.fromkeys(("ignore_eos", "use_beam_search", "bad_words", "structured_outputs", "echo"), None),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), None),
    "modalities": ["text"],
    "audio": None,
}
"""Names of OpenAI's and vLLM's that would change the answer, with a value that would not."""
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
    """What would silently change the meaning of the answer; an empty list of tools does not."""
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
    """Names that mean nothing here, as far as they can stand in a header."""
    names = (name for name, value in (request.model_extra or {}).items() if value is not None)
    return [name for name in names if HEADER_SAFE_NAME.fullmatch(name) and name not in UNSUPPORTED][
        :MAX_IGNORED_NAMES
    ]


def _warnings(request: ChatRequest, turns: list[UserTurn]) -> list[str]:
    """temperature-0 is left over from prompting assistants: a user who always says the likeliest thing. What the
    guards refused of that (mostly: what the user had said before) was drawn warm."""
    if request.temperature != 0:
        return []
    return ["temperature-0", *(["drawn-warm"] if any(turn.rejected for turn in turns) else [])]


def refuse_response_format(request: ChatRequest, prompt: ParsedPrompt) -> None:
    """JSON only where the dialect makes it, a schema only with the same keys."""
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
    """Of each choice the role, the words, and why it stopped with everything that OpenAI has no word for.

    The words are one delta: only of a finished turn is it known that the guards let it pass and that it holds
    no marker.
    """
    head: dict[str, Any] = answer.model_dump(include={"id", "created", "model"})
    head |= {"object": "chat.completion.chunk"} | ({"usage": None} if include_usage else {})
    for choice in answer.choices:
        for delta in ({"role": "assistant", "content": ""}, {"content": choice.message.content}):
            yield head | {"choices": [{"index": choice.index, "delta": delta, "finish_reason": None}]}
        yield head | {"choices": [choice.model_dump(exclude={"message"}) | {"delta": {}}]}
    if include_usage:
        yield head | {"choices": [], "usage": answer.usage.model_dump()}
