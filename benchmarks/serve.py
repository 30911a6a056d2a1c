"""Cost of the API server: throughput against vLLM alone, latency added to one request, and a load of 1,000 clients.

    python benchmarks/serve.py --quick --json-out serve.json

Throughput: both arms send the same prompts and seeds from the same client code, in alternating rounds, as bytes
prepared beforehand. The engine counts the tokens. The ratio is taken per pair of rounds; its interval is a bootstrap
over pairs. vLLM gets token ids, so that tokenisation is part of the cost of the API server.
Added latency: with one request in flight, the time that a client measures minus the server's call to the engine.
Thousand clients: each sends one request after another and honours Retry-After.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

# This script is named like the package it measures; import that from the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvicorn

from benchmarks._serving import (
    OUTCOMES,
    ApiServer,
    LoadCounts,
    api_server,
    api_target,
    closed_loop_load,
    engine_target,
    steady_load,
)
from serve.app import create_app
from serve.config import EngineSettings, ServeConfig
from serve.engine.address import private_socket
from serve.engine.command import engine_command
from serve.engine.supervisor import Engine
from serve.routing.load_balancer import LoadBalancer
from usersim.backends.vllm_http import HttpSampler
from usersim.cli import console, emit_json, run_main
from usersim.rendering.renderer import Renderer
from usersim.types import Turn
from usersim.users.guards import Guards
from usersim.users.protocols import Draw, EndPolicy, Sampled, Sampling, as_profile
from usersim.users.userlm import UserLM
from usersim.weights.default_model import resolve

# No turn is rejected or ends a conversation, so that both arms give the engine the same work.
GUARDS = Guards(
    empty=False, repeat=False, goal_copy=False, assistant_speak=False, max_words=10_000, attempts=1
)
NEVER = EndPolicy(mode="never")
TOPICS = ("a cheap weekend trip", "a birthday dinner", "a cover letter", "a budget", "a garden", "a talk")
QUICK = {"clients": 32, "tokens": 24, "pairs": 3, "warm_s": 3, "window_s": 10, "alone": 100}
QUICK |= {"requests": 96, "crowd": 200, "crowd_s": 20}
FULL = {"clients": 128, "tokens": 64, "pairs": 7, "warm_s": 8, "window_s": 30, "alone": 300}
FULL |= {"requests": 384, "crowd": 1000, "crowd_s": 90}
PARTS = ["latency", "throughput", "crowd"]


class LoadRequest:
    """Short chat of varying length with a prompt of its own.

    Answers have a quarter of `tokens` up to all of them; with equal lengths, a batch would start and end as one.
    """

    def __init__(self, index: int, tokens: int) -> None:
        exchange = [Turn(role="user", text=f"hi, number {index}"), Turn(role="assistant", text="Sure! " * 20)]
        self.goal = f"plan {TOPICS[index % len(TOPICS)]} for {index + 2} people"
        self.turns, self.index = exchange * (index % 4), index
        self.tokens = tokens // 4 + index * 7 % (tokens - tokens // 4 + 1)

    def to_api_server(self) -> bytes:
        messages = [{"role": turn.role, "content": turn.text} for turn in self.turns]
        body = {"goal": self.goal, "persona": "terse", "messages": messages, "seed": self.index}
        sampling = {"top_p": 1, "max_tokens": self.tokens, "end_of_conversation": {"mode": "never"}}
        return json.dumps(body | sampling).encode()

    def to_engine(self, renderer: Renderer, sampler: HttpSampler) -> bytes:
        end = renderer.settings.end_of_conversation_id
        prompt = renderer.prompt(as_profile(self.goal, "terse"), self.turns)
        sampling = Sampling(top_p=1, max_tokens=self.tokens)
        request = Draw(prompt, renderer.stop_ids, end, sampling, seed=self.index, ban_ids=[end])
        return json.dumps(sampler.body(request)).encode()


@contextlib.contextmanager
def _timed() -> Iterator[list[float]]:
    """Context manager that records the seconds of every call to an engine."""
    seconds, original = list[float](), HttpSampler.sample

    async def sample(self: HttpSampler, request: Draw) -> list[Sampled]:
        began = time.perf_counter()
        try:
            return await original(self, request)
        finally:
            seconds.append(time.perf_counter() - began)

    with patch.object(HttpSampler, "sample", sample):
        yield seconds


def added_latency(engine_url: str, renderer: Renderer, count: int) -> dict[str, float]:
    """Measures the milliseconds that the API server, in a thread here, adds to a single request."""
    pool, total_seconds = LoadBalancer([engine_url], renderer=renderer), list[float]()
    app = create_app(ServeConfig(guards=GUARDS, end=NEVER), UserLM(renderer, pool, guards=GUARDS, end=NEVER))
    with _timed() as engine_seconds, _in_thread(app) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for index in range(count):
            body = LoadRequest(index, 4).to_api_server()
            started = time.perf_counter()
            connection.request("POST", "/v1/user/turns", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            total_seconds.append(time.perf_counter() - started)
            if answer.status != 200:
                raise RuntimeError(f"the API server answered {answer.status}")
        connection.close()
    pairs = list(zip(total_seconds, engine_seconds, strict=True))[count // 10 :]
    added = [1000 * (total - engine) for total, engine in pairs]
    return {
        "added_latency_ms_p50": statistics.median(added),
        "added_latency_ms_p99": statistics.quantiles(added, n=100)[98],
        "added_latency_n": len(added),
        "turn_ms_p50_4_tokens": 1000 * statistics.median(total for total, _ in pairs),
    }


@contextlib.contextmanager
def _in_thread(app: Any) -> Iterator[int]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def interval(ratios: list[float], *, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval over pairs of rounds."""
    rng = random.Random(seed)
    means = sorted(statistics.fmean(rng.choices(ratios, k=len(ratios))) for _ in range(4000))
    return means[99], means[3899]


async def throughput(
    api_url: str, engine_url: str, renderer: Renderer, sizes: dict[str, int]
) -> dict[str, Any]:
    requests = [LoadRequest(index, sizes["tokens"]) for index in range(sizes["requests"])]
    sampler = HttpSampler(engine_url)
    targets = {"front": api_target(api_url), "direct": engine_target(engine_url)}
    bodies = {
        "front": [request.to_api_server() for request in requests],
        "direct": [request.to_engine(renderer, sampler) for request in requests],
    }
    await sampler.aclose()
    ratios, rounds = list[float](), list[tuple[LoadCounts, float]]()
    # The first pair fills the prefix cache of the engine and is not counted.
    for pair in range(-1, sizes["pairs"]):
        results = {}
        for arm in ("front", "direct") if pair % 2 else ("direct", "front"):
            texts = bodies[arm]
            results[arm] = await steady_load(
                targets[arm],
                lambda index, texts=texts: texts[index % len(texts)],  # type: ignore[misc]
                engine_url=engine_url,
                clients=sizes["clients"],
                warm_s=sizes["warm_s"],
                seconds=sizes["window_s"],
            )
        if pair >= 0:
            rates = {arm: rate for arm, (_, rate) in results.items()}
            ratios.append(rates["front"] / rates["direct"])
            rounds.append(results["front"])
            console.print(f"pair {pair}: {rates['front']:.0f} tok/s, ratio {ratios[-1]:.3f}")
    low, high = interval(ratios)
    answered = sum(tally.answered for tally, _ in rounds)
    waits = [ms for tally, _ in rounds for ms in tally.milliseconds]
    return {
        "throughput_ratio_vs_direct": statistics.fmean(ratios),
        "throughput_ratio_low": low,
        "throughput_ratio_high": high,
        "throughput_ratios": [round(ratio, 3) for ratio in ratios],
        "tokens_per_s": statistics.fmean(rate for _, rate in rounds),
        "turns_per_minute": 60 * answered / (sizes["window_s"] * len(rounds)),
        "turn_ms_p50_saturated": statistics.median(waits),
        "accepted": sum(tally.sent for tally, _ in rounds),
        "answered": answered,
        "errors": sum(tally.errors.total() for tally, _ in rounds),
        "lost": sum(tally.lost.total() for tally, _ in rounds),
    }


async def overload(server: ApiServer, sizes: dict[str, int]) -> dict[str, Any]:
    """Measures a load far above the capacity of the engine, beside the rate at which it is just saturated."""
    target, memory = api_target(server.url), [list[float](), list[float]()]
    before = await server.settled()
    rates, tallies = [], []
    for phase, clients in enumerate((sizes["clients"], sizes["crowd"])):

        async def watch(_: LoadCounts, samples: list[float] = memory[phase]) -> None:
            while True:
                samples.append(server.memory_mib())
                await asyncio.sleep(2)

        began = time.monotonic()
        tally = await closed_loop_load(
            target,
            lambda index: LoadRequest(index, sizes["tokens"]).to_api_server(),
            clients=clients,
            seconds=sizes["crowd_s"],
            observe=watch,
        )
        # The first quarter, before answers arrive, and the end, without new requests, are not saturated.
        rates.append(tally.rate(began + sizes["crowd_s"] / 4, began + sizes["crowd_s"]))
        tallies.append(tally)
        console.print(f"{clients} clients: {60 * rates[-1]:.0f} turns a minute, {_shares(tally)}")
    after, tally = await server.settled(), tallies[1]
    increase = {name: after.get(name, 0) - before.get(name, 0) for name in after}
    half = len(memory[1]) // 2
    for line in server.warnings:
        console.print(line.rstrip())
    return {
        "clients": sizes["crowd"],
        "asked": tally.sent,
        "answered": tally.answered,
        "completed_share": tally.answered / tally.sent,
        "errors": dict(tally.errors),
        "lost": dict(tally.lost),
        "rate_ratio_vs_saturated": rates[1] / rates[0],
        "turns_per_minute": 60 * rates[1],
        "turn_ms_p50": statistics.median(tally.milliseconds),
        "turn_ms_p99": statistics.quantiles(tally.milliseconds, n=100)[98],
        "engine_set_aside": sum("out of rotation" in line for line in server.warnings),
        "counters": increase,
        "counters_balance": increase["received"] == sum(t.sent for t in tallies)
        and increase["received"] == sum(increase.get(name, 0) for name in OUTCOMES)
        and increase["ok"] == sum(t.answered for t in tallies),
        "memory_mib_first_half": statistics.median(memory[1][:half]),
        "memory_mib_second_half": statistics.median(memory[1][half:]),
    }


def _shares(tally: LoadCounts) -> str:
    return f"{tally.answered} answered, {tally.errors.total()} refused, {tally.lost.total()} lost"


async def measure(model: Path, engine_url: str, sizes: dict[str, int], parts: list[str]) -> dict[str, Any]:
    renderer, figures = Renderer.from_pretrained(model), dict[str, Any]()
    if "latency" in parts:
        console.print("added latency")
        figures |= await asyncio.to_thread(added_latency, engine_url, renderer, sizes["alone"])
    guards = [
        f"guards.{key}={str(value).lower()}" for key, value in GUARDS.model_dump(exclude_unset=True).items()
    ]
    with api_server(
        "--model", str(model), "--engine-url", engine_url, "request_timeout_s=600", *guards
    ) as server:
        if "throughput" in parts:
            figures |= await throughput(server.url, engine_url, renderer, sizes)
        if "crowd" in parts:
            figures["crowd"] = await overload(server, sizes)
    return figures


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="at most 5 minutes on two cores; engine without compilation"
    )
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    parser.add_argument("--json", action="store_true", help="print the result on stdout")
    parser.add_argument("--model", help="a User LM folder (default: the shipped one)")
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, default=PARTS, help="measurements to run (default: all)"
    )
    parser.add_argument(
        "--engine-cores", type=int, help="cores of the engine; the API server gets the others (default: all)"
    )
    args = parser.parse_args(argv)
    sizes, model = QUICK if args.quick else FULL, resolve(args.model)
    window = Renderer.from_pretrained(model).settings.context_tokens
    cores = tuple(sorted(os.sched_getaffinity(0))[: args.engine_cores])
    settings = EngineSettings(eager=args.quick, max_model_len=window, cores=cores)
    with private_socket() as path:
        command = engine_command(model, settings, listen=path)
        with Engine.from_settings(command, settings, progress=console.print) as engine:
            startup_s = engine.start()
            figures = asyncio.run(measure(model, engine.command.url, sizes, args.only))
    versions = {name: metadata.version(name) for name in ("fastapi", "uvicorn", "httpx2", "torch")}
    facts = {
        "model": model.name,
        "engine_cores": len(cores),
        "machine_cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
    }
    figures |= {
        "engine_startup_s": startup_s,
        "config": sizes | settings.model_dump() | facts,
        "versions": versions,
    }
    emit_json(figures, stdout=args.json or not args.json_out, path=args.json_out)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
