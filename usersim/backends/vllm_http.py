"""Sampler over a vLLM server: `/v1/completions` with token ids in and out (vLLM ≥ 0.32)."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

import httpx2

from usersim.backends.connection_pools import PooledTransport
from usersim.backends.sse import DONE, event_data
from usersim.decoding.noise import non_negative
from usersim.errors import BackendError
from usersim.users.protocols import Draw, Sampled, SampledPiece, Sampling

IDLE_S = 3.0
"""Time an idle connection is reused. vLLM closes it after 5 s, which would lose a request sent at that moment."""


def http_client(
    url: str, *, timeout_s: float | None, connections: int = 512
) -> tuple[httpx2.AsyncClient, str]:
    """Returns a client and the base URL for it. `unix:/path.sock` is a Unix socket."""
    path = url.removeprefix("unix:") if url.startswith("unix:") else None
    transport = PooledTransport(connections, idle_s=IDLE_S, uds=path, tls=url.startswith("https:"))
    timeout = httpx2.Timeout(timeout_s, connect=10.0)
    base = "http://engine" if path else url.rstrip("/").removesuffix("/v1")
    return httpx2.AsyncClient(transport=transport, timeout=timeout, trust_env=False), base


class HttpSampler:
    """Sampler over one engine. Even with a seed, a sample depends on the other requests in the engine's batch."""

    def __init__(
        self, url: str, *, model: str | None = None, timeout_s: float | None = 120.0, connections: int = 512
    ) -> None:
        self.url, self.model = url, model
        self._client, self._base = http_client(url, timeout_s=timeout_s, connections=connections)

    def named(self, model: str) -> HttpSampler:
        """Returns a sampler for another model of the same engine, over the same connections."""
        sampler = copy.copy(self)
        sampler.model = model
        return sampler

    async def sample(self, request: Draw) -> list[Sampled]:
        likeliest = await self._is_likeliest(request)
        answer = await self._post("/v1/completions", self.body(request))
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            sampled = [_read(choice, request, likeliest) for choice in choices]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise self._unreadable(error) from error
        if len(sampled) != request.n:
            raise BackendError(f"engine {self.url}: {len(sampled)} choices instead of {request.n}")
        return await self._with_tops(request, sampled) if request.top_logprobs else sampled

    async def stream(self, request: Draw) -> AsyncGenerator[SampledPiece, None]:
        likeliest, first, finish = await self._is_likeliest(request), None, None
        async with aclosing(self._choices(self.body(request) | {"stream": True})) as choices:
            async for choice in choices:
                try:
                    first = _watched(choice, request.watch_id) if first is None else first
                    finish = _finish(choice, request) if choice.get("finish_reason") else None
                    token_ids = [int(token) for token in choice["token_ids"]]
                    piece = SampledPiece(token_ids, _logprobs(choice), first, likeliest, finish)
                except (KeyError, TypeError, IndexError, ValueError) as error:
                    raise self._unreadable(error) from error
                yield piece
        if finish is None:
            raise BackendError(f"engine {self.url}: the response has no finish_reason", retryable=True)

    async def _choices(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Yields every choice of every event. Raises BackendError for an error event or an incomplete stream."""
        async with self._open("/v1/completions", body) as response:
            async for data in event_data(response.aiter_bytes()):
                if data == DONE:
                    return
                event = _json(data)
                if not isinstance(event, dict) or "error" in event:
                    raise self._failed(event)
                for choice in self._spoken(event):
                    yield choice
        raise BackendError(f"engine {self.url}: the stream ended early", retryable=True)

    def _spoken(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Returns choices with a token. While a long prompt is prefilled, vLLM sends choices without one."""
        try:
            return [c for c in event.get("choices", []) if c.get("token_ids") or c.get("finish_reason")]
        except (AttributeError, TypeError) as error:
            raise self._unreadable(error) from error

    async def _is_likeliest(self, request: Draw) -> bool:
        """Returns True if the greedy first token is the watched one.

        This takes a request of its own, since `logprob_token_ids` replaces the likeliest tokens.
        """
        if not request.rank_watched:
            return False
        choice = Sampling(temperature=0, max_tokens=1)
        look = replace(request, sampling=choice, n=1, ban_ids=(), top_logprobs=0, rank_watched=False)
        (sampled,) = await self.sample(look)
        return sampled.token_ids[0] == request.watch_id

    async def _with_tops(self, request: Draw, sampled: list[Sampled]) -> list[Sampled]:
        """Adds the likeliest tokens by scoring the samples as prompts.

        The sampling itself cannot return them: if one request uses `logprob_token_ids`, vLLM's V1 runner returns only
        those for the whole batch.
        """
        prompts = [[*request.prompt_ids, *each.token_ids] for each in sampled]
        body = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "prompt_logprobs": request.top_logprobs}
        answer = await self._post("/v1/completions", body | self._named())
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            return [
                replace(each, top_logprobs=_tops(choice, request, len(each.token_ids)))
                for each, choice in zip(sampled, choices, strict=True)
            ]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise self._unreadable(error) from error

    def body(self, request: Draw) -> dict[str, Any]:
        """Returns the body of a completion request to vLLM."""
        body: dict[str, Any] = {
            "prompt": list(request.prompt_ids),
            "n": request.n,
            "max_tokens": request.sampling.max_tokens,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
            "top_k": request.sampling.top_k,
            "stop_token_ids": list(request.stop_ids),
            "logprobs": 1,
            "logprob_token_ids": [request.watch_id],
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            "skip_special_tokens": False,
            **self._named(),
        }
        if request.seed is not None:
            body["seed"] = non_negative(request.seed)
        if request.ban_ids:
            body["logit_bias"] = {str(token): -100 for token in request.ban_ids}
        return body

    def _named(self) -> dict[str, Any]:
        return {"model": self.model} if self.model else {}

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        async with self._open(path, body) as response:
            await response.aread()
        try:
            return response.json()
        except ValueError as error:
            raise BackendError(f"engine {self.url}: the response is not JSON", retryable=False) from error

    @asynccontextmanager
    async def _open(self, path: str, body: dict[str, Any]) -> AsyncGenerator[httpx2.Response, None]:
        """Opens a response with status 200. Raises BackendError for any failure."""
        try:
            async with self._client.stream("POST", self._base + path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refused(response)
                yield response
        except httpx2.TimeoutException as error:
            raise BackendError(f"engine {self.url}: no response in time", retryable=True) from error
        except httpx2.HTTPError as error:
            raise BackendError(
                f"engine {self.url}: {error or type(error).__name__}", retryable=True
            ) from error

    def _refused(self, response: httpx2.Response) -> BackendError:
        # 404 is not retryable either: the engine serves another model.
        retryable = response.status_code >= 500 or response.status_code == 429
        return BackendError(
            f"engine {self.url}: HTTP {response.status_code}: {response.text[:300]}", retryable=retryable
        )

    def _failed(self, event: Any) -> BackendError:
        """Returns the error of an event. vLLM has sent 200 by then and puts the real status into the event."""
        error = event.get("error") if isinstance(event, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        retryable = not (isinstance(code, int) and 400 <= code < 500 and code != 429)
        return BackendError(f"engine {self.url}: {str(event)[:300]}", retryable=retryable)

    def _unreadable(self, error: Exception) -> BackendError:
        return BackendError(f"engine {self.url}: the response has no {error}", retryable=False)

    async def aclose(self) -> None:
        await self._client.aclose()


def _json(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data


def _finish(choice: dict[str, Any], request: Draw) -> Literal["stop", "length"]:
    finish = choice["finish_reason"]
    if finish not in ("stop", "length"):
        # vLLM answers 200 with finish_reason "abort" and partial text when it is shutting down.
        raise BackendError(f"the engine aborted the request ({finish!r})", retryable=True)
    return "stop" if finish == "stop" or {*choice["token_ids"][-1:]} & {*request.stop_ids} else "length"


def _watched(choice: dict[str, Any], watch_id: int) -> float:
    return math.exp(choice["logprobs"]["top_logprobs"][0][f"token_id:{watch_id}"])


def _logprobs(choice: dict[str, Any]) -> list[float]:
    return [float(value) for value in choice["logprobs"]["token_logprobs"]] if choice["token_ids"] else []


def _tops(choice: dict[str, Any], request: Draw, tokens: int) -> list[dict[int, float]]:
    """Returns the likeliest tokens by position. vLLM adds the prompt token of any rank, which is filtered out."""
    scored = choice["prompt_logprobs"][len(request.prompt_ids) :]
    if len(scored) != tokens:
        raise ValueError(f"{tokens} scored tokens")
    return [
        {
            int(token): float(it["logprob"])
            for token, it in position.items()
            if it["rank"] <= request.top_logprobs
        }
        for position in scored
    ]


def _read(choice: dict[str, Any], request: Draw, likeliest: bool) -> Sampled:
    finish = _finish(choice, request)
    token_ids = [int(token) for token in choice["token_ids"]]
    return Sampled(
        token_ids=token_ids,
        logprobs=_logprobs(choice),
        finish=finish,
        end_probability=_watched(choice, request.watch_id),
        end_is_likeliest=likeliest,
    )
