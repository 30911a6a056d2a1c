"""The precision of a device is decided in one place, by timing, and one setting overrides it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from usersim.errors import ConfigError
from usersim.weights import precision
from usersim.weights.precision import Throughput

torch = pytest.importorskip("torch")

NATIVE = Throughput(fp32=(40, 80), bf16=(40, 400))
EMULATED = Throughput(fp32=(40, 80), bf16=(20, 16))
REFUSED = Throughput(fp32=(40, 80), bf16=None)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("USERSIM_HOME", str(tmp_path))
    monkeypatch.delenv(precision.SETTING, raising=False)


def rates(monkeypatch: pytest.MonkeyPatch, measured: Throughput) -> None:
    monkeypatch.setattr(precision, "throughput", lambda: measured)


def test_the_faster_over_both_batch_sizes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # Native: 1/40 + 64/80 = 0.825 against 1/40 + 64/400 = 0.185. Emulated: against 1/20 + 64/16 = 4.05.
    assert NATIVE.speedup == pytest.approx(0.825 / 0.185)
    assert EMULATED.speedup == pytest.approx(0.825 / 4.05)
    for measured, chosen in ((NATIVE, "bf16"), (EMULATED, "fp32"), (REFUSED, "fp32")):
        rates(monkeypatch, measured)
        assert precision.precision("cpu") == chosen
        assert precision.torch_dtype("cpu") == {"bf16": torch.bfloat16, "fp32": torch.float32}[chosen]


def test_the_setting_overrides_and_says_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rates(monkeypatch, EMULATED)
    monkeypatch.setenv(precision.SETTING, "bf16")
    precision._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert precision.precision("cpu") == precision.precision("cpu") == "bf16"
    assert [record.message for record in caplog.records] == [
        "USERSIM_PRECISION=bf16: fp32 is 4.9 times as fast on this CPU"
    ]
    rates(monkeypatch, NATIVE)
    monkeypatch.setenv(precision.SETTING, "fp32")
    assert precision.precision("cpu") == "fp32"


@pytest.mark.parametrize(
    ("value", "measured", "why"),
    [
        ("fp8", NATIVE, "USERSIM_PRECISION=fp8: write auto, bf16 or fp32"),
        ("bf16", REFUSED, "torch cannot multiply bf16 on this CPU; unset it, or write fp32"),
    ],
)
def test_what_cannot_be_done_is_one_readable_line(
    monkeypatch: pytest.MonkeyPatch, value: str, measured: Throughput, why: str
) -> None:
    rates(monkeypatch, measured)
    monkeypatch.setenv(precision.SETTING, value)
    with pytest.raises(ConfigError, match=r"USERSIM_PRECISION") as raised:
        precision.precision("cpu")
    assert why in str(raised.value)


def test_a_gpu_computes_in_bf16_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert precision.precision("cuda") == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert precision.precision("cuda") == "fp32"
    monkeypatch.setenv(precision.SETTING, "bf16")
    with pytest.raises(ConfigError, match="Tesla T4 does not compute in bf16"):
        precision.precision("cuda")


def test_this_cpu_is_timed_once_and_the_result_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision._cached.cache_clear()
    measured = precision.throughput()
    assert min(*measured.fp32) > 0
    (kept,) = tmp_path.glob("throughput-*.json")
    assert Throughput.model_validate_json(kept.read_text(encoding="utf-8")) == measured
    # Another process reads it and times nothing; another restriction of the libraries has a file of its own.
    kept.write_text(EMULATED.model_dump_json(), encoding="utf-8")
    code = (
        "from usersim.weights.precision import precision, throughput; print(throughput().model_dump_json())"
    )
    read = subprocess.run(
        [sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    assert json.loads(read.stdout) == EMULATED.model_dump(mode="json")
    name = precision._cache_file().name
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "other")
    assert precision._cache_file().name != name
    precision._cached.cache_clear()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"fp32": [], "bf16": []}', '{"fp32": [0, 0], "bf16": [1, 1]}']
)
def test_a_damaged_result_is_measured_again(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    precision._cached.cache_clear()
    precision._cache_file().write_text(content, encoding="utf-8")
    monkeypatch.setattr(precision, "_measure_in_subprocess", lambda: EMULATED)
    assert precision.throughput() == EMULATED
    precision._cached.cache_clear()


def test_a_cpu_that_torch_cannot_run_on_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*args: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], -4, "", "")

    monkeypatch.setattr(subprocess, "run", killed)
    with pytest.raises(ConfigError, match="instructions that this CPU lacks"):
        precision.throughput(again=True)
