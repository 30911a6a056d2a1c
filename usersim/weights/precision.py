"""Precision of matrix products on this machine: bf16 if it is faster, else fp32.

A CPU without bf16 instructions (AVX2, AVX-512 before Cooper Lake) emulates them, several times slower than fp32. CPU
flags do not tell the speed of a library's kernels. So both precisions are timed once in a subprocess, and the result is
cached. `USERSIM_PRECISION=bf16|fp32` overrides it everywhere: serving, local sampling, training, evaluation, rewards.
`usersim doctor` shows the choice and both rates.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pydantic import PositiveFloat

from usersim.errors import ConfigError
from usersim.storage.records import write_json
from usersim.types import Record

if TYPE_CHECKING:
    import torch

Precision = Literal["bf16", "fp32"]
Device = Literal["cpu", "cuda"]

SETTING = "USERSIM_PRECISION"
ROWS = (1, 64)
"""Timed batch sizes: decoding of one request, and a full batch or a short prompt."""
SHAPE = (3072, 1024)
"""Shape of the timed linear layer: larger than a core's cache, small enough for emulated bf16."""
BUDGET_S = 0.1
"""Time for one precision at one batch size, after one warm-up product."""
RESTRICTIONS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""Environment variables that restrict the instruction sets of torch's libraries."""

log = logging.getLogger(__name__)


class Throughput(Record):
    """GFLOP/s of one core in a linear layer, at the batch sizes of `ROWS`. `bf16` is None if torch lacks it."""

    fp32: tuple[PositiveFloat, PositiveFloat]
    bf16: tuple[PositiveFloat, PositiveFloat] | None

    @property
    def speedup(self) -> float:
        """Time in fp32 divided by time in bf16, summed over batch sizes; 0 without bf16."""
        if self.bf16 is None:
            return 0.0
        return _time(self.fp32) / _time(self.bf16)

    @property
    def faster(self) -> Precision:
        return "bf16" if self.speedup > 1 else "fp32"


def _time(rates: tuple[float, ...]) -> float:
    return sum(rows / rate for rows, rate in zip(ROWS, rates, strict=True))


def precision(device: Device | None = None) -> Precision:
    """Returns the precision for models on `device` (default: the GPU if torch sees one, else the CPU).

    Raises:
        ConfigError: `USERSIM_PRECISION` is not a precision, or the device does not support it.
    """
    forced = setting()
    if (device or default_device()) == "cuda":
        return _on_gpu(forced)
    if forced == "fp32":
        return forced
    rates = throughput()
    if forced is None:
        return rates.faster
    if rates.bf16 is None:
        raise ConfigError(f"{SETTING}=bf16: torch cannot multiply bf16 on this CPU; unset it, or write fp32")
    if rates.speedup < 1:
        _warn_once(f"{SETTING}=bf16: fp32 is {1 / rates.speedup:.1f} times as fast on this CPU")
    return forced


def torch_dtype(device: Device | None = None) -> torch.dtype:
    """Returns `precision` as a torch dtype."""
    import torch

    return torch.bfloat16 if precision(device) == "bf16" else torch.float32


def setting() -> Precision | None:
    """Returns the value of `USERSIM_PRECISION`; None if it is unset or `auto`."""
    value = os.environ.get(SETTING) or "auto"
    if value not in ("auto", "bf16", "fp32"):
        raise ConfigError(f"{SETTING}={value}: write auto, bf16 or fp32")
    return None if value == "auto" else cast(Precision, value)


def default_device() -> Device:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _on_gpu(forced: Precision | None) -> Precision:
    import torch

    if torch.cuda.is_bf16_supported(including_emulation=False):
        return forced or "bf16"
    if forced == "bf16":
        name = torch.cuda.get_device_name()
        raise ConfigError(f"{SETTING}=bf16: {name} does not compute in bf16; unset it, or write fp32")
    return "fp32"


def throughput(*, again: bool = False) -> Throughput:
    """Returns the measured rates of this CPU, from the cache or (first time, or `again`) from a subprocess.

    Raises:
        ConfigError: torch is missing or does not run on this CPU.
    """
    if not again:
        return _cached()
    rates = _measure_in_subprocess()
    try:
        write_json(_cache_file(), rates.model_dump())
    except OSError as error:
        log.debug("throughput not cached: %s", error)
    return rates


@functools.cache
def _cached() -> Throughput:
    try:
        return Throughput.model_validate_json(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return throughput(again=True)


def _cache_file() -> Path:
    """Returns the cache file for this CPU, torch version and restrictions."""
    from usersim.weights.default_model import home

    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise ConfigError("torch is missing; run `make setup`, or install the extra `local`") from None
    limits = [os.environ.get(name, "") for name in RESTRICTIONS]
    facts = json.dumps([_cpu_name(), version, *limits])
    return home() / f"throughput-{hashlib.sha256(facts.encode()).hexdigest()[:12]}.json"


def _cpu_name() -> str:
    """Returns CPU model and instruction sets, since virtual machines of one model differ in the latter."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features")))


def _measure_in_subprocess() -> Throughput:
    command = [sys.executable, "-m", "usersim.weights.precision"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if result.returncode == 0:
        return Throughput.model_validate_json(result.stdout)
    if result.returncode == -signal.SIGILL:
        raise ConfigError("torch needs instructions that this CPU lacks (AVX2 on x86); see `usersim doctor`")
    reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
    raise ConfigError(f"torch does not run here ({reason}); see `usersim doctor`")


@functools.cache
def _warn_once(message: str) -> None:
    log.warning(message)


def measure() -> Throughput:
    """Times a linear layer in both precisions on one core, in this process.

    With several threads each product waits for the slowest one, which would dominate on a busy machine.
    """
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():
        try:
            bf16 = _rate(ROWS[0], torch.bfloat16), _rate(ROWS[1], torch.bfloat16)
        except RuntimeError:
            bf16 = None
        fp32 = _rate(ROWS[0], torch.float32), _rate(ROWS[1], torch.float32)
        return Throughput(fp32=fp32, bf16=bf16)


def _rate(rows: int, dtype: torch.dtype) -> float:
    """Returns the GFLOP/s of the fastest product, since other load only slows some down."""
    import torch

    outputs, inputs = SHAPE
    x_BI = torch.randn(rows, inputs).to(dtype)
    weight_OI = torch.randn(outputs, inputs).to(dtype)
    torch.nn.functional.linear(x_BI, weight_OI)
    fastest_s, until = float("inf"), time.perf_counter() + BUDGET_S
    while fastest_s == float("inf") or time.perf_counter() < until:
        began = time.perf_counter()
        torch.nn.functional.linear(x_BI, weight_OI)
        fastest_s = min(fastest_s, time.perf_counter() - began)
    return 2 * rows * outputs * inputs / fastest_s / 1e9


if __name__ == "__main__":
    sys.stdout.write(measure().model_dump_json() + "\n")
