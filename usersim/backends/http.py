"""Sampling from any vLLM server: `/v1/completions` with token ids in and out (vLLM ≥ 0.32)."""

from __future__ import annotations

import math
from typing import Any

import httpx2

from usersim.errors import BackendError
from usersim.sampling import Draw, Sampled


def http_client(url: str, *, timeout_s: float, connections: int = 512) -> tuple[httpx2.AsyncClient, str]:
    """A client and the base URL to use with it; `unix:/path.sock` speaks over a Unix socket."""
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    timeout = httpx2.Timeout(timeout_s, connect=10.0)
    if url.startswith("unix:"):
        transport = httpx2.AsyncHTTPTransport(uds=url.removeprefix("unix:"), limits=limits)
        return httpx2.AsyncClient(transport=transport, timeout=timeout), "http://engine"
    return httpx2.AsyncClient(limits=limits, timeout=timeout, trust_env=False), url.rstrip("/").removesuffix(
        "/v1"
    )


class HttpSampler:
    """One engine. A sample also depends on what else is in the engine's batch, seed or not."""

    def __init__(self, url: str, *, model: str | None = None, timeout_s: float = 120.0) -> None:
        self.url, self.model = url, model
        self._client, self._base = http_client(url, timeout_s=timeout_s)

    async def sample(self, asked: Draw) -> list[Sampled]:
        answer = await self._post("/v1/completions", self._body(asked))
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            sampled = [_read(choice, asked.watch_id, set(asked.stop_ids)) for choice in choices]
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise BackendError(f"engine {self.url}: an answer without {error}", retryable=False) from error
        if len(sampled) != asked.n:
            raise BackendError(f"engine {self.url}: {len(sampled)} choices instead of {asked.n}")
        return sampled

    def _body(self, asked: Draw) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt": list(asked.prompt_ids),
            "n": asked.n,
            "max_tokens": asked.sampling.max_tokens,
            "temperature": asked.sampling.temperature,
            "top_p": asked.sampling.top_p,
            "stop_token_ids": list(asked.stop_ids),
            "logprobs": 1,
            "logprob_token_ids": [asked.watch_id],
            "return_tokens_as_token_ids": True,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        if self.model:
            body["model"] = self.model
        if asked.seed is not None:
            body["seed"] = asked.seed % 2**62
        if asked.ban_ids:
            body["logit_bias"] = {str(token): -100 for token in asked.ban_ids}
        return body

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            response = await self._client.post(self._base + path, json=body)
        except httpx2.TimeoutException as error:
            raise BackendError(f"engine {self.url}: no answer in time", retryable=True) from error
        except httpx2.HTTPError as error:
            raise BackendError(
                f"engine {self.url}: {error or type(error).__name__}", retryable=True
            ) from error
        if response.status_code != 200:
            # 404 too: the engine serves another model than the one asked for.
            retryable = response.status_code >= 500 or response.status_code == 429
            raise BackendError(
                f"engine {self.url}: HTTP {response.status_code}: {response.text[:300]}",
                retryable=retryable,
            )
        try:
            return response.json()
        except ValueError as error:
            raise BackendError(f"engine {self.url}: an answer that is not JSON", retryable=True) from error

    async def aclose(self) -> None:
        await self._client.aclose()


def _read(choice: dict[str, Any], watch_id: int, stops: set[int]) -> Sampled:
    finish = choice["finish_reason"]
    if finish not in ("stop", "length"):
        # vLLM answers 200 with finish_reason "abort" and partial text when it is shutting down.
        raise BackendError(f"the engine gave up on a request ({finish!r})", retryable=True)
    top = choice["logprobs"]["top_logprobs"][0]
    first = choice["logprobs"]["token_logprobs"][0]
    watched = top[f"token_id:{watch_id}"]
    token_ids = [int(token) for token in choice["token_ids"]]
    return Sampled(
        token_ids=token_ids,
        logprobs=[float(value) for value in choice["logprobs"]["token_logprobs"]],
        finish="stop" if token_ids and token_ids[-1] in stops else finish,
        end_probability=math.exp(watched),
        end_is_likeliest=watched >= max([first, *top.values()]),
    )
