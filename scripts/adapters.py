"""`make test-adapters`: replaces the LoRA adapter behind an alias under load, on a real engine.

Two small adapters with random weights stand for an old and a new User LM. Twelve clients request the alias all the
time.
The new adapter is loaded under its own name, the config is rewritten, and the API server gets SIGHUP. At the end the
old
adapter is unloaded. Exit status 1 if an answer was lost, refused, or came from another adapter than it named.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2

# `python scripts/adapters.py` looks beside this file first.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.scale import free_port, running
from usersim.cli import console, emit_json, run_main
from usersim.errors import BackendError
from usersim.weights.default_model import resolve

RANK = 8
CLIENTS = 12


def make_adapter(base: Path, folder: Path, seed: int) -> None:
    """Writes a LoRA with random weights, large enough to change the samples."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = get_peft_model(model, LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"]))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    wrapped.save_pretrained(str(folder))


async def change(folder: Path, seconds: float) -> dict[str, Any]:
    base, engine, port = resolve(None), free_port(), free_port()
    for seed, name in enumerate(("old", "new")):
        make_adapter(base, folder / name, seed)
    config = folder / "serve.toml"
    extra = ["--enable-lora", "--max-lora-rank", str(RANK), "--max-loras", "2"]
    settings = [f"extra={extra}", "eager=true"]
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    serving = [sys.executable, "-m", "serve.engine", "--model", str(base), "--port", str(engine), *settings]
    alias(config, "old", engine)
    with running(serving, f"http://127.0.0.1:{engine}/health"):
        await load(engine, folder / "old")
        front = [sys.executable, "-m", "serve", str(config), "--port", str(port)]
        with running(front, f"http://127.0.0.1:{port}/ready") as process:
            return await under_load(folder, config, engine, port, process, seconds)


async def under_load(
    folder: Path, config: Path, engine: int, port: int, process: subprocess.Popen[str], seconds: float
) -> dict[str, Any]:
    responses, changed = list[tuple[float, int, str]](), dict[str, float]()

    async def switch() -> None:
        await asyncio.sleep(seconds / 3)
        await load(engine, folder / "new")
        alias(config, "new", engine)
        changed["at"] = time.monotonic()
        os.kill(process.pid, signal.SIGHUP)
        await asyncio.sleep(seconds / 3)
        await call(engine, "unload_lora_adapter", {"lora_name": "old"})

    async with http(port) as front:
        greedy_turns = {"old": await greedy(front)}
        await asyncio.gather(switch(), *(client(front, seconds, responses) for _ in range(CLIENTS)))
        greedy_turns["new"] = await greedy(front)
    late = [name for began, _, name in responses if began > changed["at"] + 5]
    return {
        "answers": len(responses),
        "by_status": dict(Counter(str(status) for _, status, _ in responses)),
        "by_adapter": dict(Counter(name for _, _, name in responses)),
        "answers_begun_5_s_after_the_change": len(late),
        "of_those_from_the_new_adapter": late.count("new"),
        "greedy_turns_differ": greedy_turns["old"] != greedy_turns["new"],
        "clients": CLIENTS,
        "seconds": seconds,
    }


def alias(config: Path, name: str, engine: int) -> None:
    config.write_text(
        f'engine_urls = ["http://127.0.0.1:{engine}"]\n[models]\nlive = "{name}"\n', encoding="utf-8"
    )


@contextlib.asynccontextmanager
async def http(port: int) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False
    ) as connection:
        yield connection


async def call(engine: int, action: str, body: dict[str, str]) -> None:
    async with http(engine) as connection:
        answer = await connection.post(f"/v1/{action}", json=body)
    if answer.status_code != 200:
        raise BackendError(f"the engine refused {action}: {answer.text[:300]}")


async def load(engine: int, folder: Path) -> None:
    await call(engine, "load_lora_adapter", {"lora_name": folder.name, "lora_path": str(folder)})


async def client(front: httpx2.AsyncClient, seconds: float, responses: list[tuple[float, int, str]]) -> None:
    until = time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        answer = await front.post(
            "/v1/user/turns", json={"model": "live", "goal": "plan a trip", "max_tokens": 16}
        )
        responses.append((began, answer.status_code, answer.headers.get("x-userlm-model", "")))


async def greedy(front: httpx2.AsyncClient) -> str:
    body = {"model": "live", "goal": "plan a trip", "max_tokens": 16, "temperature": 0}
    answer = await front.post("/v1/user/turns", json=body | {"end_of_conversation": {"mode": "never"}})
    return str(answer.raise_for_status().json()["choices"][0]["message"])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json-out")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="usersim-adapters-") as folder:
        result = asyncio.run(change(Path(folder), args.seconds))
    console.print(str(result))
    emit_json(result, stdout=False, path=args.json_out)
    late = result["answers_begun_5_s_after_the_change"]
    whole = result["by_status"] == {"200": result["answers"]} and set(result["by_adapter"]) == {"old", "new"}
    changed = late > 0 and result["of_those_from_the_new_adapter"] == late and result["greedy_turns_differ"]
    return 0 if whole and changed else 1


if __name__ == "__main__":
    sys.exit(run_main(main))
