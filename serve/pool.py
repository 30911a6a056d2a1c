"""The engines behind the front: the least busy one answers. And the check that they are the right ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2

from usersim.backends.http import HttpSampler, http_client
from usersim.errors import BackendError, ConfigError
from usersim.render import END_OF_CONVERSATION, Renderer
from usersim.sampling import Draw, Sampled, Sampling
from usersim.types import UserProfile

PROBE_TEXT = "Hello, can you help me?"


class EnginePool:
    """A `Sampler` over one engine or several; all must serve the same User LM."""

    def __init__(self, urls: Sequence[str], *, timeout_s: float = 120.0) -> None:
        self._engines = [HttpSampler(url, timeout_s=timeout_s) for url in urls]
        self._busy = [0] * len(urls)

    async def sample(self, asked: Draw) -> list[Sampled]:
        least = min(range(len(self._engines)), key=self._busy.__getitem__)
        self._busy[least] += asked.n
        try:
            return await self._engines[least].sample(asked)
        finally:
            self._busy[least] -= asked.n

    async def aclose(self) -> None:
        await asyncio.gather(*(engine.aclose() for engine in self._engines))


async def check_engine(url: str, renderer: Renderer) -> None:
    """Raises ConfigError when the engine at `url` cannot be this User LM: other tokens, or a shorter window.

    Token ids that mean something else would give fluent nonsense instead of an error. Ends with a few sampled
    tokens: the first request of an engine is slow, and should not be a client's.
    """
    settings = renderer.settings
    client, base = http_client(url, timeout_s=30)
    async with client:
        models = await _call(client, url, "GET", f"{base}/v1/models", None)
        window = models["data"][0].get("max_model_len")
        probe = [settings.end_of_conversation_id, *renderer.encode(PROBE_TEXT)]
        read = await _call(client, url, "POST", f"{base}/detokenize", {"tokens": probe})
    if read.get("prompt") != END_OF_CONVERSATION + PROBE_TEXT:
        raise ConfigError(f"engine {url}: serves a model with other tokens than this User LM")
    if window is not None and window < settings.context_tokens:
        raise ConfigError(
            f"engine {url}: holds {window} tokens, but this User LM needs {settings.context_tokens}; "
            f"start it with --max-model-len {settings.context_tokens}"
        )
    pool = EnginePool([url])
    try:
        prompt, end = renderer.prompt(UserProfile(), []), settings.end_of_conversation_id
        await pool.sample(Draw(prompt, renderer.stop_ids, end, Sampling(max_tokens=8), n=2, seed=0))
    finally:
        await pool.aclose()


async def _call(client: httpx2.AsyncClient, url: str, method: str, path: str, body: Any) -> Any:
    try:
        response = await client.request(method, path, json=body)
        response.raise_for_status()
        return response.json()
    except httpx2.HTTPStatusError as error:
        raise ConfigError(f"engine {url}: not a vLLM server ({error})") from error
    except (httpx2.HTTPError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise BackendError(f"engine {url}: {reason}", retryable=True) from error
