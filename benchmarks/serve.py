"""What the front costs: the same load through it and straight to vLLM, and the time it adds to one request.

    python benchmarks/serve.py --quick --json-out serve.json

Throughput: both arms send the same prompts and seeds from the same client code, in alternating rounds; the ratio
is taken per pair of rounds, its interval is a bootstrap over pairs. Added latency: one request in flight, time
seen by the client minus the time the front spent waiting for the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

# This script has the name of the package it measures; look for that in the checkout, not beside this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvicorn

from serve.app import create_app
from serve.command import engine_command
from serve.config import EngineSettings, ServeConfig
from serve.engine import Engine, private_socket
from serve.pool import EnginePool
from usersim.backends.http import HttpSampler
from usersim.cli import console, emit_json, run_main
from usersim.client import RemoteUser
from usersim.errors import BackendError, UsersimError
from usersim.guards import Guards
from usersim.model import resolve
from usersim.render import Renderer
from usersim.sampling import Draw, EndPolicy, Sampled, Sampling, UserLM, as_profile
from usersim.types import Turn, UserProfile

# Nothing is thrown away and nothing ends, so that both arms ask the engine for the same work.
GUARDS = Guards(
    empty=False, repeat=False, goal_copy=False, assistant_speak=False, max_words=10_000, attempts=1
)
NEVER = EndPolicy(mode="never")
TOPICS = ("a cheap weekend trip", "a birthday dinner", "a cover letter", "a budget", "a garden", "a talk")
Request = tuple[UserProfile, list[Turn]]


class Timed(EnginePool):
    """Notes how long the engine took for each request."""

    def __init__(self, url: str) -> None:
        super().__init__([url])
        self.seconds: list[float] = []

    async def sample(self, *args: Any, **kwargs: Any) -> list[Sampled]:
        began = time.perf_counter()
        try:
            return await super().sample(*args, **kwargs)
        finally:
            self.seconds.append(time.perf_counter() - began)


def requests(count: int) -> list[Request]:
    """Short chats of different lengths; no two prompts are the same."""
    made = []
    for index in range(count):
        profile = as_profile(f"plan {TOPICS[index % len(TOPICS)]} for {index + 2} people", "terse")
        said = [Turn(role="user", text=f"hi, number {index}"), Turn(role="assistant", text="Sure! " * 20)]
        made.append((profile, said * (index % 4)))
    return made


async def load(url: str, asked: list[Request], *, clients: int, sampling: Sampling) -> dict[str, float]:
    """Everything through the endpoint at `url`."""
    user = RemoteUser(url, timeout_s=600, max_retries=0)

    async def one(index: int) -> int:
        profile, turns = asked[index]
        (said,) = await user.sample(profile, turns, seed=index, sampling=sampling, end=NEVER)
        return said.tokens

    try:
        return await _round(one, len(asked), clients)
    finally:
        await user.aclose()


async def load_direct(
    url: str, renderer: Renderer, asked: list[Request], *, clients: int, sampling: Sampling
) -> dict[str, float]:
    """The same token ids straight to vLLM."""
    sampler = HttpSampler(url, timeout_s=600)
    end = renderer.settings.end_of_conversation_id

    async def one(index: int) -> int:
        prompt = renderer.prompt(*asked[index])
        drawn = await sampler.sample(
            Draw(prompt, renderer.stop_ids, end, sampling, seed=index, ban_ids=[end])
        )
        return len(drawn[0].token_ids)

    try:
        return await _round(one, len(asked), clients)
    finally:
        await sampler.aclose()


async def _round(one: Any, count: int, clients: int) -> dict[str, float]:
    """Explicit errors are counted; anything else that is not a whole answer is lost."""
    gate, tally = asyncio.Semaphore(clients), {"tokens": 0, "answered": 0, "errors": 0, "lost": 0}

    async def run(index: int) -> None:
        async with gate:
            try:
                tokens = await one(index)  # not `+= await`: that reads the sum before it waits
                tally["tokens"] += tokens
                tally["answered"] += 1
            except BackendError as error:
                tally["errors" if "HTTP" in str(error) else "lost"] += 1
            except UsersimError:
                tally["errors"] += 1

    began = time.perf_counter()
    await asyncio.gather(*(run(index) for index in range(count)))
    seconds = time.perf_counter() - began
    return {**tally, "seconds": seconds, "tokens_per_s": tally["tokens"] / seconds}


async def added_latency(engine_url: str, renderer: Renderer, count: int) -> dict[str, float]:
    """Milliseconds that the front (here in a thread of this process) adds to a request that is alone."""
    pool = Timed(engine_url)
    config = ServeConfig(guards=GUARDS, end=NEVER)
    with _in_thread(create_app(config, UserLM(renderer, pool, guards=GUARDS, end=NEVER))) as url:
        user, seen = RemoteUser(url, max_retries=0), []
        for index, (profile, turns) in enumerate(requests(count)):
            began = time.perf_counter()
            await user.sample(profile, turns, seed=index, sampling=Sampling(max_tokens=4))
            seen.append(time.perf_counter() - began)
        await user.aclose()
    added = [
        1000 * (total - engine) for total, engine in list(zip(seen, pool.seconds, strict=True))[count // 10 :]
    ]
    return {
        "added_latency_ms_p50": statistics.median(added),
        "added_latency_ms_p99": statistics.quantiles(added, n=100)[98],
        "turn_ms_p50_4_tokens": 1000 * statistics.median(seen),
    }


@contextlib.contextmanager
def _in_thread(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def _front(model: Path, engine_url: str) -> Iterator[str]:
    """`usersim serve` as a process of its own, as it is in use."""
    guards = [
        f"guards.{key}={str(value).lower()}" for key, value in GUARDS.model_dump(exclude_unset=True).items()
    ]
    command = [
        sys.executable,
        "-m",
        "serve",
        "--model",
        str(model),
        "--engine-url",
        engine_url,
        "--port",
        "0",
    ]
    process = subprocess.Popen(
        [*command, "request_timeout_s=600", *guards], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"serving at (http://\S+)", line):
                yield found[1]
                return
        raise BackendError(f"the front did not start: {said}")
    finally:
        process.terminate()
        process.communicate()


def interval(ratios: list[float], *, seed: int = 0) -> tuple[float, float]:
    """95 %, bootstrap over pairs of rounds."""
    rng = random.Random(seed)
    means = sorted(statistics.fmean(rng.choices(ratios, k=len(ratios))) for _ in range(4000))
    return means[99], means[3899]


async def measure(model: Path, engine_url: str, sizes: dict[str, int]) -> dict[str, Any]:
    renderer = Renderer.from_pretrained(model)
    asked, sampling = requests(sizes["requests"]), Sampling(top_p=1, max_tokens=sizes["tokens"])
    clients, ratios, rounds = sizes["clients"], list[float](), list[dict[str, float]]()
    console.print("added latency")
    figures: dict[str, Any] = await added_latency(engine_url, renderer, sizes["alone"])
    with _front(model, engine_url) as url:
        for pair in range(-1, sizes["pairs"]):
            arms = {}
            for arm in ("front", "direct") if pair % 2 else ("direct", "front"):
                arms[arm] = (
                    await load(url, asked, clients=clients, sampling=sampling)
                    if arm == "front"
                    else await load_direct(engine_url, renderer, asked, clients=clients, sampling=sampling)
                )
            # The first pair fills the engine's prefix cache and counts for nothing.
            if pair >= 0:
                ratios.append(arms["front"]["tokens_per_s"] / arms["direct"]["tokens_per_s"])
                rounds.append(arms["front"])
                console.print(
                    f"pair {pair}: {arms['front']['tokens_per_s']:.0f} tok/s, ratio {ratios[-1]:.3f}"
                )
    low, high = interval(ratios)
    answered, seconds = sum(r["answered"] for r in rounds), sum(r["seconds"] for r in rounds)
    return figures | {
        "throughput_ratio_vs_direct": statistics.fmean(ratios),
        "throughput_ratio_low": low,
        "throughput_ratio_high": high,
        "tokens_per_s": statistics.fmean(r["tokens_per_s"] for r in rounds),
        "turns_per_minute": 60 * answered / seconds,
        "accepted": sizes["requests"] * len(rounds),
        "answered": answered,
        "errors": sum(r["errors"] for r in rounds),
        "lost": sum(r["lost"] for r in rounds),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="≤ 5 minutes on two cores; eager engine")
    parser.add_argument("--json-out")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", help="a User LM folder (default: the shipped one)")
    args = parser.parse_args(argv)
    sizes = (
        {"requests": 64, "clients": 32, "tokens": 16, "pairs": 3, "alone": 60}
        if args.quick
        else {"requests": 512, "clients": 128, "tokens": 48, "pairs": 10, "alone": 500}
    )
    model = resolve(args.model)
    settings = EngineSettings(
        eager=args.quick, max_model_len=Renderer.from_pretrained(model).settings.context_tokens
    )
    with private_socket() as path:
        command = engine_command(model, settings, listen=path)
        with Engine.of(command, settings, progress=console.print) as engine:
            startup_s = engine.start()
            figures = asyncio.run(measure(model, engine.command.url, sizes))
    versions = {name: metadata.version(name) for name in ("fastapi", "uvicorn", "httpx2", "torch")}
    facts = {"model": model.name, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    figures |= {
        "engine_startup_s": startup_s,
        "config": sizes | settings.model_dump() | facts,
        "versions": versions,
    }
    emit_json(figures, stdout=args.json or not args.json_out, path=args.json_out)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
