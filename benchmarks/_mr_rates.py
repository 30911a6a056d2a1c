"""How fast an engine prefills and decodes when it has nothing else to do, on prompts like those of the run."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks._serving import Tally, ask, client, engine_target
from collab_train.rollout.accounting.cost import engine_counters
from usersim.errors import BackendError

Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Load:
    """What one engine is asked in the run: its prompts, and how a request for a continuation looks."""

    url: str
    prompts: Prompts
    body: Callable[[Sequence[int], int], dict[str, Any]]
    """(prompt ids, seed) → the request; without a stop, so that every continuation has the same length."""
    vocabulary: int


@dataclass(frozen=True)
class Rates:
    prefill: float
    """Tokens a second."""
    decode: float

    def seconds(self, counts: dict[str, int]) -> float:
        """How long the engine needs for that at these rates."""
        return counts["prefilled"] / self.prefill + counts["decoded"] / self.decode


async def saturated(loads: Sequence[Load], *, clients: int, warm_s: float, window_s: float) -> list[Rates]:
    """Of all engines at once, as they are in the run: they share the memory's bandwidth and the machine."""

    async def both(bodies: list[Callable[[int], bytes]]) -> list[dict[str, float]]:
        return list(
            await asyncio.gather(
                *(
                    _window(load.url, body, clients, warm_s, window_s)
                    for load, body in zip(loads, bodies, strict=True)
                )
            )
        )

    read = await both([_unknown(load) for load in loads])
    if idle := [load.url for load, counts in zip(loads, read, strict=True) if not counts["prefilled"]]:
        raise BackendError(f"{', '.join(idle)}: nothing was read in {window_s:g} s; give --window-s more")
    prefill = [counts["prefilled"] / counts["seconds"] for counts in read]
    spoken = await both([_continued(load) for load in loads])
    rates = []
    for rate, counts in zip(prefill, spoken, strict=True):
        # What is left of a cached prompt is read as well: its time is not the decoding's.
        left_s = counts["seconds"] - counts["prefilled"] / rate
        rates.append(Rates(rate, counts["decoded"] / max(left_s, 1e-6)))
    return rates


def _unknown(load: Load) -> Callable[[int], bytes]:
    """Prompts as long as those of the run and never seen: one token each."""

    def body(index: int) -> bytes:
        length, rng = len(load.prompts[index % len(load.prompts)]), random.Random(f"{index} {time.time_ns()}")
        ids = [rng.randrange(1000, load.vocabulary) for _ in range(length)]
        return json.dumps(load.body(ids, index) | {"max_tokens": 1}).encode()

    return body


def _continued(load: Load) -> Callable[[int], bytes]:
    def body(index: int) -> bytes:
        return json.dumps(load.body(load.prompts[index % len(load.prompts)], index)).encode()

    return body


async def _window(
    url: str, body: Callable[[int], bytes], clients: int, warm_s: float, window_s: float
) -> dict[str, float]:
    """The engine's counts within a window of a load that never pauses."""
    tally, numbers, target = Tally(), iter(range(10**9)), engine_target(url)
    async with client(url, clients) as http:

        async def one() -> None:
            while True:
                await asyncio.sleep(await ask(http, target, body(next(numbers)), tally) or 0)

        asking = [asyncio.ensure_future(one()) for _ in range(clients)]
        try:
            await asyncio.sleep(warm_s)
            before, began = await counters(url), time.monotonic()
            await asyncio.sleep(window_s)
            after, seconds = await counters(url), time.monotonic() - began
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
    if tally.errors or tally.lost:
        raise BackendError(f"{url}: {dict(tally.errors + tally.lost)} while its rates were measured")
    return {name: float(after[name] - before[name]) for name in after} | {"seconds": seconds}


async def counters(url: str) -> dict[str, int]:
    found = await engine_counters(url)
    if found is None:
        raise BackendError(f"{url}: no counters of vLLM at /metrics")
    return found
