"""The engines behind the front: who answers, who answers instead, and the check that they are the right ones."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import httpx2

from serve.config import Limits
from serve.http import request_context as visit
from serve.http.errors import DeadlineError, OverloadedError
from serve.http.metrics import EngineMetrics
from serve.routing.admission import Admission
from serve.routing.engine_health import Upstream
from usersim.backends.vllm_http import HttpSampler, http_client
from usersim.errors import BackendError, ConfigError
from usersim.rendering.renderer import END_OF_CONVERSATION, Renderer
from usersim.types import UserProfile
from usersim.users.protocols import Draw, Sampled, SampledPiece, Sampling

PROBE_TEXT = "Hello, can you help me?"
RETRIES = 2
T = TypeVar("T")


class EnginePool:
    """A `Sampler` over one engine or several; all must serve the same User LM.

    The engine with the fewest samples outstanding answers; draws of one `affinity` stay with one engine while it
    is not much busier. What fails before anything was given out is asked again, of another engine first.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout_s: float = 120.0,
        limits: Limits | None = None,
        places: int = 192,
        renderer: Renderer | None = None,
    ) -> None:
        self.timeout_s, self.limits, self.places = timeout_s, limits or Limits(), places
        self.metrics = EngineMetrics()
        self.admission = Admission(places * len(urls), self.limits, self.metrics)
        self._watching: asyncio.Task[None] | None = None
        self._engines = [
            Upstream(
                url,
                limits=self.limits,
                connections=places + 8,
                metrics=self.metrics,
                proof=_one_token(renderer),
                check=partial(check_engine, renderer=renderer) if renderer else None,
                changed=self._health_changed,
            )
            for url in urls
        ]

    async def sample(self, asked: Draw) -> list[Sampled]:
        async with aclosing(self._answers(asked, _whole, self.timeout_s)) as answers:
            return await anext(answers)

    async def stream(self, asked: Draw) -> AsyncGenerator[SampledPiece, None]:
        async with aclosing(self._answers(asked, HttpSampler.stream, self.limits.first_token_s)) as pieces:
            async for piece in pieces:
                yield piece

    async def ready(self, fresh_s: float) -> bool:
        """Whether some engine answered within the last seconds, or does now. A live process proves nothing:
        vLLM's own /health is 200 while its core hangs."""
        for working in asyncio.as_completed([engine.works(fresh_s) for engine in self._engines]):
            if await working:
                return True
        return False

    async def aclose(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(engine.aclose() for engine in self._engines))

    async def _answers(
        self, asked: Draw, ask: Callable[[HttpSampler, Draw], AsyncGenerator[T, None]], first_s: float
    ) -> AsyncGenerator[T, None]:
        self._watch()
        left_s, model = self._deadline(), visit.asked_model()
        async with self.admission.place(asked.n, left_s()):
            tried: list[Upstream] = []
            engine = await self._choose(asked.affinity, tried)
            while True:
                begun = False
                _note(engine, tried)
                try:
                    with engine.work(asked.n):
                        async with aclosing(ask(engine.named(model), asked)) as pieces:
                            async with engine.patience(min(first_s, left_s())):
                                piece = await anext(pieces, None)
                            while piece is not None:
                                begun = True
                                yield piece
                                async with engine.patience(left_s()):
                                    piece = await anext(pieces, None)
                    return
                except BackendError as error:
                    if not _again(error):
                        raise
                    engine.failed(error)
                    tried.append(engine)
                    if begun or len(tried) > RETRIES:
                        raise
                    engine = await self._choose(asked.affinity, tried, error)
                    self.metrics.retries.inc()

    def _deadline(self) -> Callable[[], float]:
        """Seconds left: of the whole request, where there is one."""
        loop, request = asyncio.get_running_loop(), visit.current()
        own = loop.time() + self.timeout_s
        return lambda: min(own - loop.time(), request.left_s() if request else self.timeout_s)

    async def _choose(
        self, affinity: str | None, tried: list[Upstream], error: BackendError | None = None
    ) -> Upstream:
        """Raises `error` when nobody is left. An engine that failed may be chosen again once it is back."""
        if not any(engine.healthy for engine in self._engines):
            await self._verdicts()
        healthy = [engine for engine in self._engines if engine.healthy]
        if not healthy:
            raise error or BackendError("no engine answers", retryable=True)
        return _best([engine for engine in healthy if engine not in tried] or healthy, affinity)

    async def _verdicts(self) -> None:
        """Waits until an engine is back, or until a first probe of each has said that it was no hiccup."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self.limits.probe_s
        while not any(engine.healthy for engine in self._engines) and loop.time() < until:
            open_ = {
                engine.verdict for engine in self._engines if engine.verdict and not engine.verdict.done()
            }
            if not open_:
                return
            await asyncio.wait(open_, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    def _health_changed(self) -> None:
        healthy = sum(engine.healthy for engine in self._engines)
        self.admission.resize(self.places * max(healthy, 1))
        for engine in self._engines:
            if engine.hung and healthy:
                engine.abandon()

    def _watch(self) -> None:
        if self._watching is None:
            self._watching = asyncio.create_task(self._look_for_hung_engines())

    async def _look_for_hung_engines(self) -> None:
        while True:
            await asyncio.sleep(min(self.limits.silent_s / 5, 5.0))
            for engine in self._engines:
                if engine.quiet_s() > self.limits.silent_s:
                    engine.suspect()


async def _whole(sampler: HttpSampler, asked: Draw) -> AsyncGenerator[list[Sampled], None]:
    yield await sampler.sample(asked)


def _again(error: BackendError) -> bool:
    return error.retryable and not isinstance(error, OverloadedError | DeadlineError)


def _best(engines: list[Upstream], affinity: str | None) -> Upstream:
    least = min(engines, key=lambda engine: engine.samples)
    if affinity is None:
        return least
    # Rendezvous hashing: when an engine comes or goes, only its own conversations move.
    home = max(engines, key=lambda engine: _weight(engine.url, affinity))
    return home if home.samples <= 2 * least.samples + 8 else least


def _weight(url: str, affinity: str) -> bytes:
    return hashlib.blake2b(f"{url}\0{affinity}".encode(), digest_size=8).digest()


def _note(engine: Upstream, tried: list[Upstream]) -> None:
    if (request := visit.current()) is not None:
        request.engine = engine.url
        request.retries += bool(tried)


def _one_token(renderer: Renderer | None) -> Draw:
    one = Sampling(temperature=0, max_tokens=1)
    if renderer is None:
        return Draw([0], [], 0, one, seed=0)
    prompt, end = renderer.prompt(UserProfile(), []), renderer.settings.end_of_conversation_id
    return Draw(prompt, renderer.stop_ids, end, one, seed=0)


async def check_models(url: str, names: Collection[str]) -> None:
    """Raises ConfigError when the engine does not serve one of these models of its own."""
    client, base = http_client(url, timeout_s=30)
    async with client:
        served = await _call(client, url, "GET", f"{base}/v1/models", None)
    if missing := sorted(set(names) - {model["id"] for model in served["data"]}):
        raise ConfigError(f"engine {url}: does not serve {', '.join(missing)}")


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
    sampler = HttpSampler(url, timeout_s=120)
    try:
        prompt, end = renderer.prompt(UserProfile(), []), settings.end_of_conversation_id
        await sampler.sample(Draw(prompt, renderer.stop_ids, end, Sampling(max_tokens=8), n=2, seed=0))
    finally:
        await sampler.aclose()


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
