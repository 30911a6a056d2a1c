"""Saturated prefill and decode rates of an engine, on prompts like those of the run."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks._serving import LoadCounts, ask, client, engine_target
from collab_train.rollout.accounting.cost import engine_counters
from usersim.errors import BackendError

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class EngineLoad:
    """Load of one engine in the run: its prompts and the form of its requests."""

    url: str
    prompts: Prompts
    body: Callable[[Sequence[int], int], dict[str, Any]]
    """Request body from (prompt ids, seed), without a stop, so that every continuation has the same length."""
    vocabulary: int


@dataclass(frozen=True)
class EngineRates:
    prefill: float
    """Tokens per second."""
    decode: float

    def seconds(self, counts: dict[str, int]) -> float:
        """Returns the seconds that the engine needs for these token counts at its rates."""
        return counts["prefilled"] / self.prefill + counts["decoded"] / self.decode


async def saturated(
    loads: Sequence[EngineLoad], *, clients: int, warm_s: float, window_s: float
) -> list[EngineRates]:
    """Measures all engines at once, as in the run: they share the memory bandwidth and the machine."""

    async def measure(bodies: list[Callable[[int], bytes]]) -> list[dict[str, float]]:
        return list(
            await asyncio.gather(
                *(
                    _window(load.url, body, clients, warm_s, window_s)
                    for load, body in zip(loads, bodies, strict=True)
                )
            )
        )

    prefill_counts = await measure([_new_prompts(load) for load in loads])
    if idle := [
        load.url for load, counts in zip(loads, prefill_counts, strict=True) if not counts["prefilled"]
    ]:
        raise BackendError(
            f"{', '.join(idle)}: no token was prefilled in {window_s:g} s; give a longer --window-s"
        )
    prefill = [counts["prefilled"] / counts["seconds"] for counts in prefill_counts]
    decode_counts = await measure([_run_prompts(load) for load in loads])
    rates = []
    for rate, counts in zip(prefill, decode_counts, strict=True):
        # The uncached rest of a prompt is prefilled too; that time is not decoding.
        decode_s = counts["seconds"] - counts["prefilled"] / rate
        rates.append(EngineRates(rate, counts["decoded"] / max(decode_s, 1e-6)))
    return rates


def _new_prompts(load: EngineLoad) -> Callable[[int], bytes]:
    """Random prompts of the lengths in the run, never in the cache, with one token each."""

    def body(index: int) -> bytes:
        length, rng = len(load.prompts[index % len(load.prompts)]), random.Random(f"{index} {time.time_ns()}")
        ids = [rng.randrange(1000, load.vocabulary) for _ in range(length)]
        return json.dumps(load.body(ids, index) | {"max_tokens": 1}).encode()

    return body


def _run_prompts(load: EngineLoad) -> Callable[[int], bytes]:
    def body(index: int) -> bytes:
        return json.dumps(load.body(load.prompts[index % len(load.prompts)], index)).encode()

    return body


async def _window(
    url: str, body: Callable[[int], bytes], clients: int, warm_s: float, window_s: float
) -> dict[str, float]:
    """Returns the counts of the engine within a window under constant load."""
    tally, numbers, target = LoadCounts(), iter(range(10**9)), engine_target(url)
    async with client(url, clients) as http:

        async def send_requests() -> None:
            while True:
                await asyncio.sleep(await ask(http, target, body(next(numbers)), tally) or 0)

        tasks = [asyncio.ensure_future(send_requests()) for _ in range(clients)]
        try:
            await asyncio.sleep(warm_s)
            before, started = await counters(url), time.monotonic()
            await asyncio.sleep(window_s)
            after, seconds = await counters(url), time.monotonic() - started
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    if tally.errors or tally.lost:
        raise BackendError(f"{url}: {dict(tally.errors + tally.lost)} while its rates were measured")
    return {name: float(after[name] - before[name]) for name in after} | {"seconds": seconds}


async def counters(url: str) -> dict[str, int]:
    counts = await engine_counters(url)
    if counts is None:
        raise BackendError(f"{url}: no counters of vLLM at /metrics")
    return counts
