"""Engines for the benchmarks of multiturn-aware rewards: two vLLM engines, a core each, and the user's API server."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._mr_rates import counters
from benchmarks._serving import api_server
from serve.config import EngineSettings
from serve.engine.address import private_socket
from serve.engine.command import engine_command
from serve.engine.supervisor import Engine
from usersim.cli import console
from usersim.rendering.renderer import Renderer
from usersim.weights.default_model import BASE_NAME, resolve

USER_TOKENS, ASSISTANT_TOKENS, TEMPERATURE, TOP_P, BLOCK = 32, 64, 0.8, 0.95, 32
WINDOW = 2048
"""Context window of the assistant in tokens."""


@dataclass(frozen=True)
class Engines:
    user: Engine
    assistant: Engine
    api_url: str
    """URL of `usersim serve` over the user's engine."""
    user_model: Path
    assistant_model: Path
    settings: EngineSettings

    @property
    def assistant_url(self) -> str:
        return self.assistant.command.url


@contextlib.contextmanager
def two_engines(*, eager: bool, user_tokens: int, keep_running: bool = False) -> Iterator[Engines]:
    """Starts both engines and the API server. `keep_running` restarts an engine that dies."""
    user_model, assistant_model = resolve(None), resolve(BASE_NAME)
    cores, window = (
        sorted(os.sched_getaffinity(0)),
        Renderer.from_pretrained(user_model).settings.context_tokens,
    )
    shared = EngineSettings(eager=eager, block_size=BLOCK)
    user_settings = shared.model_copy(update={"cores": (cores[0],), "max_model_len": window})
    assistant_settings = shared.model_copy(update={"cores": (cores[-1],), "max_model_len": WINDOW})
    with private_socket() as path, contextlib.ExitStack() as stack:
        # Entered before the engines: on an interrupt those stop first, which ends their start.
        threads = stack.enter_context(ThreadPoolExecutor())
        engines = [
            stack.enter_context(Engine.from_settings(command, settings, progress=console.print))
            for command, settings in (
                (engine_command(user_model, user_settings, listen=path), user_settings),
                (engine_command(assistant_model, assistant_settings, listen=free_port()), assistant_settings),
            )
        ]
        list(threads.map(Engine.start, engines))
        if keep_running:
            for engine in engines:
                engine.supervise()
        url = engines[0].command.url
        server = stack.enter_context(
            api_server(
                *("--model", str(user_model), "--engine-url", url),
                *(f"sampling.max_tokens={user_tokens}", "request_timeout_s=600", "log_requests=false"),
            )
        )
        yield Engines(engines[0], engines[1], server.url, user_model, assistant_model, shared)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Counts = dict[str, dict[str, int]]
"""By engine: tokens prefilled, read from the cache, and decoded."""


async def counts_of(engines: Engines) -> Counts:
    urls = {"user": engines.user.command.url, "assistant": engines.assistant_url}
    return {name: await counters(url) for name, url in urls.items()}


async def counts_since(before: Counts, engines: Engines) -> Counts:
    after = await counts_of(engines)
    return {name: {key: after[name][key] - count for key, count in before[name].items()} for name in before}


def speed(contexts: int, seconds: float, counts: Counts) -> dict[str, Any]:
    decoded = sum(count["decoded"] for count in counts.values())
    return {
        "contexts": contexts,
        "wall_s": seconds,
        "contexts_per_minute": 60 * contexts / seconds,
        "decoded_tokens_per_s": decoded / seconds,
        "decoded_tokens_per_context": decoded / contexts,
        "engines": counts,
    }
