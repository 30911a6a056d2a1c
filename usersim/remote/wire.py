"""Conversion between the JSON of `/v1/user/…` and records, for the clients."""

from __future__ import annotations

import email.utils
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from usersim.errors import BackendError, ContextOverflowError, GuardError, RenderError, UsersimError
from usersim.rendering.token_text import DetailedTurn, TokenLogprob
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.protocols import EndPolicy, TurnPiece

LATER = {"engine_unavailable", "overloaded", "timeout", "rate_limit_exceeded"}


class TryLaterError(BackendError):
    """Retryable error of the server. `wait_s`: its Retry-After in seconds, if it sent one."""

    def __init__(self, message: str, *, wait_s: float | None) -> None:
        super().__init__(message, retryable=True)
        self.wait_s = wait_s


def situation(
    model: str, profile: UserProfile, turns: Sequence[Turn], end: EndPolicy | None, affinity: str | None
) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": turn.role, "content": turn.text} for turn in turns],
    }
    if profile.goal:
        body["goal"] = profile.goal.model_dump(exclude_defaults=True)
    if profile.persona:
        body["persona"] = profile.persona.model_dump(exclude_defaults=True)
    if end:
        body["end_of_conversation"] = end.model_dump(exclude_unset=True)
    if affinity is not None:
        body["conversation_id"] = affinity
    return body


def turns_of(answer: dict[str, Any], *, detailed: bool = False) -> list[UserTurn]:
    prompt_tokens = answer["usage"]["prompt_tokens"]
    return [
        _turn(
            choice,
            choice["message"]["content"],
            prompt_tokens,
            tokens_of(choice.get("logprobs")) if detailed else None,
        )
        for choice in answer["choices"]
    ]


async def pieces(
    events: AsyncGenerator[dict[str, Any], None], *, detailed: bool
) -> AsyncGenerator[TurnPiece | UserTurn, None]:
    """Yields `TurnPiece`s, then the `UserTurn`. The stream has to include the usage chunk."""
    text, trace, first, last = "", list[TokenLogprob](), 0.0, dict[str, Any]()
    async with aclosing(events):
        async for event in events:
            for choice in event["choices"]:
                if "finish_reason" in choice:
                    last = choice
                    continue
                first = choice.get("end_of_conversation_prob", first)
                fresh, tokens = choice["delta"].get("content", ""), tokens_of(choice.get("logprobs"))
                text, trace = text + fresh, [*trace, *tokens]
                yield TurnPiece(text=fresh, end_probability=first, tokens=tokens if detailed else ())
            if last and "usage" in event:
                yield _turn(last, text, event["usage"]["prompt_tokens"], tuple(trace) if detailed else None)
                return
    raise BackendError("the stream ended without the whole turn", retryable=True)


def tokens_of(logprobs: dict[str, Any] | None) -> tuple[TokenLogprob, ...]:
    return tuple(_token(each) for each in logprobs["content"]) if logprobs else ()


def refusal(url: str, status: int, body: Any, headers: Mapping[str, str] | None = None) -> UsersimError:
    """Returns the error that a local `UserLM` would have raised, or a BackendError."""
    try:
        message, code = str(body["error"]["message"]), body["error"].get("code")
    except (KeyError, TypeError, AttributeError):
        message, code = str(body)[:300], None
    if code == "guards_exhausted":
        return GuardError(message, reasons={})
    if code == "context_length_exceeded":
        return ContextOverflowError(message)
    if status == 400:
        return RenderError(message)
    message = f"{url}: {message}" if status == 200 else f"{url}: HTTP {status}: {message}"
    if status == 401:
        return BackendError(f"{message}; give api_key or set USERSIM_API_KEY")
    # The header says for each 5xx whether a retry may help.
    is_retryable = status in (408, 429) or status >= 500 or code in LATER
    should_retry = {"true": True, "false": False}.get((headers or {}).get("x-should-retry", ""), is_retryable)
    return TryLaterError(message, wait_s=_wait_s(headers or {})) if should_retry else BackendError(message)


def _turn(
    choice: dict[str, Any], text: str, prompt_tokens: int, trace: tuple[TokenLogprob, ...] | None
) -> UserTurn:
    fields: dict[str, Any] = {
        "text": text,
        "ends": choice["end_of_conversation"],
        "end_probability": choice["end_of_conversation_prob"],
        "finish": "end" if choice["end_of_conversation"] else choice["finish_reason"],
        "logprob": choice["logprob"],
        "tokens": choice["tokens"],
        "prompt_tokens": prompt_tokens,
        "seed": choice.get("seed"),
        "rejected": tuple(choice["rejected"]),
        "drawn_tokens": choice.get("drawn_tokens"),
    }
    return UserTurn(**fields) if trace is None else DetailedTurn(**fields, trace=trace)


def _token(token: dict[str, Any]) -> TokenLogprob:
    return TokenLogprob(
        id=token["id"],
        text=token["token"],
        bytes=tuple(token["bytes"]),
        logprob=token["logprob"],
        top=tuple(_token(each) for each in token.get("top_logprobs", ())),
    )


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Returns the seconds of a Retry-After header, which holds seconds or a date."""
    retry_after = headers.get("retry-after")
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
