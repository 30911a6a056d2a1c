"""Load balancer over vLLM engines, with failover, health checks and checks of the model they serve."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import httpx2

from serve.config import ServeLimits
from serve.http import request_context
from serve.http.errors import DeadlineError, OverloadedError
from serve.http.metrics import EngineMetrics
from serve.routing.admission import Admission
from serve.routing.engine_health import EngineClient
from usersim.backends.vllm_http import HttpSampler, http_client
from usersim.errors import BackendError, ConfigError
from usersim.rendering.renderer import END_OF_CONVERSATION, Renderer
from usersim.types import UserProfile
from usersim.users.protocols import Draw, Sampled, SampledPiece, Sampling

PROBE_TEXT = "Hello, can you help me?"
RETRIES = 2
T = TypeVar("T")


class LoadBalancer:
    """A `Sampler` over one or several engines that serve the same User LM.

    Requests go to the engine with the fewest outstanding samples. Requests with one `affinity` go to the same engine
    unless it is much busier. A request that fails before its first output is retried, on another engine first.

    Args:
        timeout_s: Longest time for a request.
        samples_per_engine: Samples in flight per engine.
        renderer: Renderer of the User LM, for probe prompts and checks of recovered engines.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout_s: float = 120.0,
        limits: ServeLimits | None = None,
        samples_per_engine: int = 192,
        renderer: Renderer | None = None,
    ) -> None:
        self.timeout_s, self.limits, self.samples_per_engine = (
            timeout_s,
            limits or ServeLimits(),
            samples_per_engine,
        )
        self.metrics = EngineMetrics()
        self.admission = Admission(samples_per_engine * len(urls), self.limits, self.metrics)
        self._watch_task: asyncio.Task[None] | None = None
        self._engines = [
            EngineClient(
                url,
                limits=self.limits,
                connections=samples_per_engine + 8,
                metrics=self.metrics,
                probe_request=_probe_request(renderer),
                verify=partial(check_engine, renderer=renderer) if renderer else None,
                on_health_change=self._health_changed,
            )
            for url in urls
        ]

    async def sample(self, request: Draw) -> list[Sampled]:
        async with aclosing(self._dispatch(request, _sample_once, self.timeout_s)) as answers:
            return await anext(answers)

    async def stream(self, request: Draw) -> AsyncGenerator[SampledPiece, None]:
        async with aclosing(self._dispatch(request, HttpSampler.stream, self.limits.first_token_s)) as pieces:
            async for piece in pieces:
                yield piece

    async def ready(self, fresh_s: float) -> bool:
        """Returns True if an engine answered within `fresh_s` seconds or answers a probe now.

        A live process is no proof: vLLM's own /health is 200 while its core hangs.
        """
        for working in asyncio.as_completed([engine.is_working(fresh_s) for engine in self._engines]):
            if await working:
                return True
        return False

    async def aclose(self) -> None:
        if self._watch_task is not None:
            self._watch_task.cancel()
        await asyncio.gather(*(engine.aclose() for engine in self._engines))

    async def _dispatch(
        self,
        request: Draw,
        send: Callable[[HttpSampler, Draw], AsyncGenerator[T, None]],
        first_piece_s: float,
    ) -> AsyncGenerator[T, None]:
        self._start_watch()
        remaining_s, model = self._deadline(), request_context.current_model()
        async with self.admission.slots(request.n, remaining_s()):
            failed_engines: list[EngineClient] = []
            engine = await self._choose_engine(request.affinity, failed_engines)
            while True:
                has_output = False
                _record_engine(engine, failed_engines)
                try:
                    with engine.track(request.n):
                        async with aclosing(send(engine.sampler_for(model), request)) as pieces:
                            async with engine.deadline(min(first_piece_s, remaining_s())):
                                piece = await anext(pieces, None)
                            while piece is not None:
                                has_output = True
                                yield piece
                                async with engine.deadline(remaining_s()):
                                    piece = await anext(pieces, None)
                    return
                except BackendError as error:
                    if not _is_retryable(error):
                        raise
                    engine.mark_failed(error)
                    failed_engines.append(engine)
                    if has_output or len(failed_engines) > RETRIES:
                        raise
                    engine = await self._choose_engine(request.affinity, failed_engines, error)
                    self.metrics.retries.inc()

    def _deadline(self) -> Callable[[], float]:
        """Returns a function for the seconds left: of the HTTP request, or of `timeout_s` outside of one."""
        loop, context = asyncio.get_running_loop(), request_context.current()
        own = loop.time() + self.timeout_s
        return lambda: min(own - loop.time(), context.remaining_s() if context else self.timeout_s)

    async def _choose_engine(
        self, affinity: str | None, failed_engines: list[EngineClient], error: BackendError | None = None
    ) -> EngineClient:
        """Selects an engine; raises `error` if none is healthy. A failed engine may be chosen again once it is back."""
        if not any(engine.is_healthy for engine in self._engines):
            await self._wait_for_recovery()
        healthy_engines = [engine for engine in self._engines if engine.is_healthy]
        if not healthy_engines:
            raise error or BackendError("no engine is healthy", retryable=True)
        return _select_engine(
            [engine for engine in healthy_engines if engine not in failed_engines] or healthy_engines,
            affinity,
        )

    async def _wait_for_recovery(self) -> None:
        """Waits until an engine recovers, or until the first probe of each has failed."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.limits.probe_s
        while not any(engine.is_healthy for engine in self._engines) and loop.time() < deadline_s:
            rechecks = {
                engine.first_recheck
                for engine in self._engines
                if engine.first_recheck and not engine.first_recheck.done()
            }
            if not rechecks:
                return
            await asyncio.wait(
                rechecks, timeout=deadline_s - loop.time(), return_when=asyncio.FIRST_COMPLETED
            )

    def _health_changed(self) -> None:
        healthy_count = sum(engine.is_healthy for engine in self._engines)
        self.admission.resize(self.samples_per_engine * max(healthy_count, 1))
        for engine in self._engines:
            if engine.is_hung and healthy_count:
                engine.cancel_waits()

    def _start_watch(self) -> None:
        if self._watch_task is None:
            self._watch_task = asyncio.create_task(self._probe_silent_engines())

    async def _probe_silent_engines(self) -> None:
        while True:
            await asyncio.sleep(min(self.limits.silent_s / 5, 5.0))
            for engine in self._engines:
                if engine.silence_s() > self.limits.silent_s:
                    engine.probe_if_healthy()


async def _sample_once(sampler: HttpSampler, request: Draw) -> AsyncGenerator[list[Sampled], None]:
    yield await sampler.sample(request)


def _is_retryable(error: BackendError) -> bool:
    return error.retryable and not isinstance(error, OverloadedError | DeadlineError)


def _select_engine(engines: list[EngineClient], affinity: str | None) -> EngineClient:
    least_busy = min(engines, key=lambda engine: engine.outstanding_samples)
    if affinity is None:
        return least_busy
    # Rendezvous hashing: when an engine comes or goes, only its own conversations move.
    preferred = max(engines, key=lambda engine: _rendezvous_hash(engine.url, affinity))
    return (
        preferred if preferred.outstanding_samples <= 2 * least_busy.outstanding_samples + 8 else least_busy
    )


def _rendezvous_hash(url: str, affinity: str) -> bytes:
    return hashlib.blake2b(f"{url}\0{affinity}".encode(), digest_size=8).digest()


def _record_engine(engine: EngineClient, failed_engines: list[EngineClient]) -> None:
    if (context := request_context.current()) is not None:
        context.engine = engine.url
        context.retries += bool(failed_engines)


def _probe_request(renderer: Renderer | None) -> Draw:
    sampling = Sampling(temperature=0, max_tokens=1)
    if renderer is None:
        return Draw([0], [], 0, sampling, seed=0)
    prompt, end = renderer.prompt(UserProfile(), []), renderer.settings.end_of_conversation_id
    return Draw(prompt, renderer.stop_ids, end, sampling, seed=0)


async def check_models(url: str, names: Collection[str]) -> None:
    """Checks that the engine serves the models `names`; raises ConfigError with those that are missing."""
    client, base = http_client(url, timeout_s=30)
    async with client:
        listing = await _request_json(client, url, "GET", f"{base}/v1/models", None)
    if missing := sorted(set(names) - {model["id"] for model in listing["data"]}):
        raise ConfigError(f"engine {url}: does not serve {', '.join(missing)}")


async def check_engine(url: str, renderer: Renderer) -> None:
    """Checks that the engine at `url` serves this User LM, and warms it up.

    A different tokenizer would give fluent nonsense instead of an error. The first request of an engine is slow, so a
    few tokens are sampled here.

    Raises:
        ConfigError: If the engine has other tokens, a shorter context window, or is no vLLM server.
        BackendError: If the engine does not answer.
    """
    settings = renderer.settings
    client, base = http_client(url, timeout_s=30)
    async with client:
        models = await _request_json(client, url, "GET", f"{base}/v1/models", None)
        window = models["data"][0].get("max_model_len")
        probe = [settings.end_of_conversation_id, *renderer.encode(PROBE_TEXT)]
        detokenized = await _request_json(client, url, "POST", f"{base}/detokenize", {"tokens": probe})
    if detokenized.get("prompt") != END_OF_CONVERSATION + PROBE_TEXT:
        raise ConfigError(f"engine {url}: serves a model with other tokens than this User LM")
    if window is not None and window < settings.context_tokens:
        raise ConfigError(
            f"engine {url}: holds {window} tokens, but this User LM needs {settings.context_tokens}; "
            f"start it with --max-model-len {settings.context_tokens}"
        )
    sampler = HttpSampler(url, timeout_s=120)
    try:
        prompt, end = renderer.prompt(UserProfile(), []), settings.end_of_conversation_id
        await sampler.sample(Draw(prompt, renderer.stop_ids, end, Sampling(max_tokens=8), n=2, seed=0))
    finally:
        await sampler.aclose()


async def _request_json(client: httpx2.AsyncClient, url: str, method: str, path: str, body: Any) -> Any:
    try:
        response = await client.request(method, path, json=body)
        response.raise_for_status()
        return response.json()
    except httpx2.HTTPStatusError as error:
        raise ConfigError(f"engine {url}: not a vLLM server ({error})") from error
    except (httpx2.HTTPError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise BackendError(f"engine {url}: {reason}", retryable=True) from error
