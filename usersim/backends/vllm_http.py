"""Sampling from any vLLM server: `/v1/completions` with token ids in and out (vLLM ≥ 0.32)."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

import httpx2

from usersim.backends.connection_pools import Lanes
from usersim.backends.sse import DONE, event_data
from usersim.decoding.noise import non_negative
from usersim.errors import BackendError
from usersim.users.protocols import Draw, Sampled, SampledPiece, Sampling

IDLE_S = 3.0
"""An idle connection is used again for so long. vLLM closes it after 5 s: a request on its way just then is lost."""


def http_client(
    url: str, *, timeout_s: float | None, connections: int = 512
) -> tuple[httpx2.AsyncClient, str]:
    """A client and the base URL to use with it; `unix:/path.sock` speaks over a Unix socket."""
    path = url.removeprefix("unix:") if url.startswith("unix:") else None
    lanes = Lanes(connections, idle_s=IDLE_S, uds=path, tls=url.startswith("https:"))
    timeout = httpx2.Timeout(timeout_s, connect=10.0)
    base = "http://engine" if path else url.rstrip("/").removesuffix("/v1")
    return httpx2.AsyncClient(transport=lanes, timeout=timeout, trust_env=False), base


class HttpSampler:
    """One engine. A sample also depends on what else is in the engine's batch, seed or not."""

    def __init__(
        self, url: str, *, model: str | None = None, timeout_s: float | None = 120.0, connections: int = 512
    ) -> None:
        self.url, self.model = url, model
        self._client, self._base = http_client(url, timeout_s=timeout_s, connections=connections)

    def named(self, model: str) -> HttpSampler:
        """The same engine over the same connections, asked for one of its models by name."""
        named = copy.copy(self)
        named.model = model
        return named

    async def sample(self, asked: Draw) -> list[Sampled]:
        likeliest = await self._is_likeliest(asked)
        answer = await self._post("/v1/completions", self.body(asked))
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            sampled = [_read(choice, asked, likeliest) for choice in choices]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise self._unreadable(error) from error
        if len(sampled) != asked.n:
            raise BackendError(f"engine {self.url}: {len(sampled)} choices instead of {asked.n}")
        return await self._with_tops(asked, sampled) if asked.top_logprobs else sampled

    async def stream(self, asked: Draw) -> AsyncGenerator[SampledPiece, None]:
        likeliest, first, finish = await self._is_likeliest(asked), None, None
        async with aclosing(self._choices(self.body(asked) | {"stream": True})) as choices:
            async for choice in choices:
                try:
                    first = _watched(choice, asked.watch_id) if first is None else first
                    finish = _finish(choice, asked) if choice.get("finish_reason") else None
                    token_ids = [int(token) for token in choice["token_ids"]]
                    piece = SampledPiece(token_ids, _logprobs(choice), first, likeliest, finish)
                except (KeyError, TypeError, IndexError, ValueError) as error:
                    raise self._unreadable(error) from error
                yield piece
        if finish is None:
            raise BackendError(f"engine {self.url}: an answer without an end", retryable=True)

    async def _choices(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Every choice of every event; raises BackendError for errors that come in the stream, and where the
        stream ends without saying so."""
        async with self._open("/v1/completions", body) as response:
            async for data in event_data(response.aiter_bytes()):
                if data == DONE:
                    return
                event = _json(data)
                if not isinstance(event, dict) or "error" in event:
                    raise self._failed(event)
                for choice in self._spoken(event):
                    yield choice
        raise BackendError(f"engine {self.url}: the stream broke off", retryable=True)

    def _spoken(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """While a long prompt is read, there are choices without a token."""
        try:
            return [c for c in event.get("choices", []) if c.get("token_ids") or c.get("finish_reason")]
        except (AttributeError, TypeError) as error:
            raise self._unreadable(error) from error

    async def _is_likeliest(self, asked: Draw) -> bool:
        """Greedy first token equals the watched one: `logprob_token_ids` displaces the likeliest tokens."""
        if not asked.rank_watched:
            return False
        choice = Sampling(temperature=0, max_tokens=1)
        look = replace(asked, sampling=choice, n=1, ban_ids=(), top_logprobs=0, rank_watched=False)
        (sampled,) = await self.sample(look)
        return sampled.token_ids[0] == asked.watch_id

    async def _with_tops(self, asked: Draw, sampled: list[Sampled]) -> list[Sampled]:
        """Scores what was said as a prompt. Beside requests that use `logprob_token_ids`, vLLM's V1 runner has
        only those for the whole batch, so the likeliest tokens cannot come from the sampling itself."""
        prompts = [[*asked.prompt_ids, *each.token_ids] for each in sampled]
        body = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "prompt_logprobs": asked.top_logprobs}
        answer = await self._post("/v1/completions", body | self._named())
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            return [
                replace(each, top_logprobs=_tops(choice, asked, len(each.token_ids)))
                for each, choice in zip(sampled, choices, strict=True)
            ]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise self._unreadable(error) from error

    def body(self, asked: Draw) -> dict[str, Any]:
        """Body of a completion request to vLLM."""
        body: dict[str, Any] = {
            "prompt": list(asked.prompt_ids),
            "n": asked.n,
            "max_tokens": asked.sampling.max_tokens,
            "temperature": asked.sampling.temperature,
            "top_p": asked.sampling.top_p,
            "top_k": asked.sampling.top_k,
            "stop_token_ids": list(asked.stop_ids),
            "logprobs": 1,
            "logprob_token_ids": [asked.watch_id],
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            "skip_special_tokens": False,
            **self._named(),
        }
        if asked.seed is not None:
            body["seed"] = non_negative(asked.seed)
        if asked.ban_ids:
            body["logit_bias"] = {str(token): -100 for token in asked.ban_ids}
        return body

    def _named(self) -> dict[str, Any]:
        return {"model": self.model} if self.model else {}

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        async with self._open(path, body) as response:
            await response.aread()
        try:
            return response.json()
        except ValueError as error:
            raise BackendError(f"engine {self.url}: an answer that is not JSON", retryable=False) from error

    @asynccontextmanager
    async def _open(self, path: str, body: dict[str, Any]) -> AsyncGenerator[httpx2.Response, None]:
        """The response once its head is here and says 200; BackendError whatever goes wrong with it."""
        try:
            async with self._client.stream("POST", self._base + path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refused(response)
                yield response
        except httpx2.TimeoutException as error:
            raise BackendError(f"engine {self.url}: no answer in time", retryable=True) from error
        except httpx2.HTTPError as error:
            raise BackendError(
                f"engine {self.url}: {error or type(error).__name__}", retryable=True
            ) from error

    def _refused(self, response: httpx2.Response) -> BackendError:
        # 404 too: the engine serves another model than the one asked for.
        retryable = response.status_code >= 500 or response.status_code == 429
        return BackendError(
            f"engine {self.url}: HTTP {response.status_code}: {response.text[:300]}", retryable=retryable
        )

    def _failed(self, event: Any) -> BackendError:
        """vLLM has sent 200 by then, and puts the real status into the event."""
        error = event.get("error") if isinstance(event, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        retryable = not (isinstance(code, int) and 400 <= code < 500 and code != 429)
        return BackendError(f"engine {self.url}: {str(event)[:300]}", retryable=retryable)

    def _unreadable(self, error: Exception) -> BackendError:
        return BackendError(f"engine {self.url}: an answer without {error}", retryable=False)

    async def aclose(self) -> None:
        await self._client.aclose()


def _json(data: str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data


def _finish(choice: dict[str, Any], asked: Draw) -> Literal["stop", "length"]:
    finish = choice["finish_reason"]
    if finish not in ("stop", "length"):
        # vLLM answers 200 with finish_reason "abort" and partial text when it is shutting down.
        raise BackendError(f"the engine gave up on a request ({finish!r})", retryable=True)
    return "stop" if finish == "stop" or {*choice["token_ids"][-1:]} & {*asked.stop_ids} else "length"


def _watched(choice: dict[str, Any], watch_id: int) -> float:
    return math.exp(choice["logprobs"]["top_logprobs"][0][f"token_id:{watch_id}"])


def _logprobs(choice: dict[str, Any]) -> list[float]:
    return [float(value) for value in choice["logprobs"]["token_logprobs"]] if choice["token_ids"] else []


def _tops(choice: dict[str, Any], asked: Draw, tokens: int) -> list[dict[int, float]]:
    """By rank: vLLM adds the token that stands there, however unlikely."""
    scored = choice["prompt_logprobs"][len(asked.prompt_ids) :]
    if len(scored) != tokens:
        raise ValueError(f"{tokens} scored tokens")
    return [
        {int(token): float(it["logprob"]) for token, it in place.items() if it["rank"] <= asked.top_logprobs}
        for place in scored
    ]


def _read(choice: dict[str, Any], asked: Draw, likeliest: bool) -> Sampled:
    finish = _finish(choice, asked)
    token_ids = [int(token) for token in choice["token_ids"]]
    return Sampled(
        token_ids=token_ids,
        logprobs=_logprobs(choice),
        finish=finish,
        end_probability=_watched(choice, asked.watch_id),
        end_is_likeliest=likeliest,
    )
