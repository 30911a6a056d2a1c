"""Decode rate of an engine on this CPU, beside the bound set by the machine.

    python benchmarks/engine.py --json-out engine.json      # about four minutes on two cores
    python benchmarks/engine.py --quick eager=true          # settings of the engine as key=value

Bound of a decoding step: max(2 * parameters * batch / FLOP per s, bytes of weights / bandwidth). FLOP per s is the
best rate of the model's layer shapes at a large batch. Bandwidth is that of reading an array of 1 GiB. Both are
measured just before, in the engine's precision on the engine's cores. The load is the User LM's: its chat prompts, the
default top_p, P(end) with every request. Prompts are prefilled before timing starts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

# `serve.py` beside this file is a benchmark; import the package of the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors import safe_open

from serve.config import EngineSettings
from serve.engine.address import private_socket
from serve.engine.command import engine_command
from serve.engine.supervisor import Engine
from usersim.backends.vllm_http import HttpSampler
from usersim.cli import console, emit_json, run_main
from usersim.rendering.renderer import Renderer
from usersim.storage.toml_config import load_config
from usersim.types import Turn
from usersim.users.protocols import Draw, Sampling, as_profile
from usersim.weights.default_model import resolve
from usersim.weights.precision import RESTRICTIONS, precision, torch_dtype

BATCHES = (1, 8, 32, 64)
TOPICS = ("a cheap weekend trip", "a birthday dinner", "a cover letter", "a budget", "a garden", "a talk")
LARGE_BATCH = 256


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings of the engine, e.g. eager=true"
    )
    parser.add_argument("--model", help="a User LM folder or run (default: the shipped one)")
    parser.add_argument(
        "--tokens", type=int, default=64, help="tokens decoded for each request (default: 64)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds at each batch size (default: 5)")
    parser.add_argument(
        "--requests", type=int, nargs="+", default=BATCHES, help="batch sizes (default: 1 8 32 64)"
    )
    parser.add_argument("--quick", action="store_true", help="32 tokens, 2 rounds")
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    args = parser.parse_intermixed_args(argv)
    tokens, repeats = (32, 2) if args.quick else (args.tokens, args.repeats)
    path = resolve(args.model)
    renderer = Renderer.from_pretrained(path)
    settings = load_config(EngineSettings, overrides=args.settings)
    if settings.max_model_len is None:
        settings = settings.model_copy(update={"max_model_len": renderer.settings.context_tokens})
    machine = measure_machine(path, settings)
    with contextlib.ExitStack() as stack:
        command = engine_command(path, settings, listen=stack.enter_context(private_socket()))
        engine = stack.enter_context(
            Engine.from_settings(command, settings, progress=lambda line: console.print(line))
        )
        started_s = engine.start()
        rows = asyncio.run(
            measure_rates(command.url, renderer, machine, args.requests, tokens=tokens, repeats=repeats)
        )
    figures = {
        "engine_start_s": round(started_s, 1),
        "machine": machine,
        "batches": rows,
        "tokens_per_request": tokens,
        "n": repeats,
        "settings": settings.model_dump(mode="json", exclude_defaults=True),
        "restrictions": {name: os.environ[name] for name in RESTRICTIONS if name in os.environ},
        "command": " ".join(["python benchmarks/engine.py", *argv]),
    }
    emit_json(figures, stdout=not args.json_out, path=args.json_out)
    return 0


def measure_machine(model: Path, settings: EngineSettings) -> dict[str, Any]:
    """Measures the compute rate and memory bandwidth of the engine's cores, and counts parameters and weight bytes."""
    dtype = torch_dtype("cpu")
    with safe_open(model / "model.safetensors", "pt") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - not a dict
    matrices = [tuple(shape) for shape in shapes if len(shape) == 2]
    parameters = sum(rows * columns for rows, columns in matrices)
    os.sched_setaffinity(0, settings.bound_cores())
    torch.set_num_threads(len(settings.bound_cores()))
    return {
        "precision": precision("cpu"),
        "cores": len(settings.bound_cores()),
        "parameters": parameters,
        "weight_bytes": parameters * dtype.itemsize,
        "gflops": _gflops(set(matrices), dtype),
        "bandwidth_gb_s": _bandwidth_gb_s(),
    }


def _gflops(shapes: set[tuple[int, ...]], dtype: torch.dtype) -> float:
    rates = []
    with torch.inference_mode():
        for outputs, inputs in shapes:
            if outputs > 10_000:
                continue  # the output layer does not fit any cache
            x_BI, weight_OI = (
                torch.randn(LARGE_BATCH, inputs).to(dtype),
                torch.randn(outputs, inputs).to(dtype),
            )
            seconds = _fastest_s(lambda x=x_BI, w=weight_OI: torch.nn.functional.linear(x, w))
            rates.append(2 * LARGE_BATCH * outputs * inputs / seconds / 1e9)
    return round(max(rates), 1)


def _bandwidth_gb_s() -> float:
    values = torch.ones(2**28)
    return round(values.nbytes / _fastest_s(values.sum) / 1e9, 1)


def _fastest_s(call: Any, *, budget_s: float = 1.0) -> float:
    call()
    fastest_s, until = float("inf"), time.perf_counter() + budget_s
    while time.perf_counter() < until:
        began = time.perf_counter()
        call()
        fastest_s = min(fastest_s, time.perf_counter() - began)
    return fastest_s


async def measure_rates(
    url: str, renderer: Renderer, machine: dict[str, Any], batches: list[int], *, tokens: int, repeats: int
) -> list[dict[str, Any]]:
    sampler = HttpSampler(url)
    rows = []
    try:
        for batch in batches:  # warms up memory and kernels for every size
            await _rate(sampler, renderer, batch, tokens=8, first=0)
        for batch in batches:
            compute_s = 2 * machine["parameters"] * batch / (machine["gflops"] * 1e9)
            read_s = machine["weight_bytes"] / (machine["bandwidth_gb_s"] * 1e9)
            bound = batch / max(compute_s, read_s)
            rates = [
                await _rate(sampler, renderer, batch, tokens=tokens, first=batch * round_)
                for round_ in range(repeats)
            ]
            rate = statistics.median(rates)
            rows.append(
                {
                    "requests": batch,
                    "tokens_per_s": round(rate, 1),
                    "range": [round(min(rates), 1), round(max(rates), 1)],
                    "step_ms": round(1000 * batch / rate, 1),
                    "bound_tokens_per_s": round(bound, 1),
                    "bound_step_ms": round(1000 * max(compute_s, read_s), 1),
                    "bound_by": "compute" if compute_s > read_s else "memory",
                    "share_of_bound": round(rate / bound, 3),
                }
            )
            console.print(
                f"{batch:3} requests: {rate:6.0f} tokens/s of {bound:.0f} ({rate / bound:.0%} of the bound)"
            )
    finally:
        await sampler.aclose()
    return rows


async def _rate(sampler: HttpSampler, renderer: Renderer, batch: int, *, tokens: int, first: int) -> float:
    """Returns tokens per second of `batch` requests after their first token, with cached prompts."""

    async def seconds(count: int) -> float:
        requests = [_request(renderer, first + index, count) for index in range(batch)]
        began = time.perf_counter()
        await asyncio.gather(*map(sampler.sample, requests))
        return time.perf_counter() - began

    await seconds(1)  # prefills the prompts
    one_s = await seconds(1)  # prefills the part of a prompt that fills no cache block
    return batch * (tokens - 1) / (await seconds(tokens) - one_s)


def _request(renderer: Renderer, index: int, tokens: int) -> Draw:
    """Request for a turn of exactly `tokens` tokens; end tokens are banned."""
    turns = [
        Turn(role="user", text=f"hi, number {index}"),
        Turn(role="assistant", text="Sure, here is what I would do first. " * (1 + index % 4)),
    ]
    profile = as_profile(f"plan {TOPICS[index % len(TOPICS)]} for {index + 2} people", "terse")
    end = renderer.settings.end_of_conversation_id
    return Draw(
        renderer.prompt(profile, turns),
        renderer.stop_ids,
        end,
        Sampling(max_tokens=tokens),
        seed=index,
        ban_ids=list(renderer.stop_ids),
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
