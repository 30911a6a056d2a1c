"""Run of the released `collabllm` package on the same engines (`_mr_peer.py`), and the comparison."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._mr_engines import (
    ASSISTANT_TOKENS,
    TEMPERATURE,
    TOP_P,
    USER_TOKENS,
    Engines,
    counts_of,
    counts_since,
    speed,
)
from collab_train.contexts import Context
from collab_train.rollout.simulation.rollout import RolloutConfig
from usersim.errors import BackendError

PEER = Path(__file__).with_name("_mr_peer.py")


async def peer(
    python: str, engines: Engines, contexts: list[Context], config: RolloutConfig
) -> dict[str, Any]:
    """Runs the package's own loop in its own environment; its start is not timed."""
    before = await counts_of(engines)
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.json"
        task.write_text(json.dumps(_task(engines, contexts, config)), encoding="utf-8")
        command = [python, str(PEER), str(task)]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"RUN_USER_DIR": folder},
        )
        output, errors = await process.communicate()
    if process.returncode:
        raise BackendError(f"{python}: {errors.decode().strip().splitlines()[-1]}")
    report = json.loads(output.splitlines()[-1])
    counts = await counts_since(before, engines)
    return speed(len(contexts), report["wall_s"], counts) | {
        "seconds_by_context": [context["seconds"] for context in report["contexts"]],
        "mean_mr": fmean(
            r for context in report["contexts"] for rewards in context["rewards"] for r in rewards
        ),
        **{key: report[key] for key in ("messages", "retries", "counts", "stand_ins")},
    }


def _task(engines: Engines, contexts: list[Context], config: RolloutConfig) -> dict[str, Any]:
    api_url, engine_url = f"{engines.api_url}/v1", f"{engines.assistant_url}/v1"
    name = engines.assistant.command.name
    return {
        "w": config.w,
        "n": config.n,
        "token_penalty": config.token_penalty,
        "user": {
            "model": "openai/userlm-collabllm",
            "api_base": api_url,
            "api_key": "none",
            "temperature": 1.0,
            "top_p": TOP_P,
            "max_tokens": USER_TOKENS,
        },
        "assistant": {
            "model": f"openai/{name}",
            "api_base": engine_url,
            "api_key": "none",
            "temperature": TEMPERATURE,
            "top_p": TOP_P,
            "max_tokens": ASSISTANT_TOKENS,
        },
        "contexts": [_peer_context(context) for context in contexts],
    }


def _peer_context(context: Context) -> dict[str, Any]:
    goal = context.profile.goal
    wishes = [goal.summary, *(facet.text for facet in goal.facets)] if goal else []
    return {
        "id": context.id,
        "goal": "; ".join(wishes),
        "messages": [{"role": turn.role, "content": turn.text} for turn in context.turns],
        "candidates": list(context.candidates),
        "phrases": [list(phrases) for phrases in context.phrases],
    }


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    mine, rng, seconds = ours["contexts_per_minute"], random.Random(0), theirs["seconds_by_context"]
    resampled = sorted(mine * fmean(rng.choices(seconds, k=len(seconds))) / 60 for _ in range(4000))
    return {
        "speedup_vs_collabllm": mine / theirs["contexts_per_minute"],
        "speedup_vs_collabllm_interval": [resampled[99], resampled[3899]],
        "speedup_per_decoded_token": ours["decoded_tokens_per_s"] / theirs["decoded_tokens_per_s"],
    }
