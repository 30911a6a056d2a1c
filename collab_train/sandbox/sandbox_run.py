"""Sandbox that runs an assistant's code against the tests of a task, in confined processes.

The tests run in one process, the judge. They call the code in another process through a narrow channel
(`sandbox_link`). The code's process holds neither the tests nor the expected results. Only the judge reports passes.

Every platform: limits on wall time, CPU, memory, threads, files and their sizes; a temporary directory; an empty
environment; no output kept.

Linux kernels add `protections`. Landlock allows reading only Python and its packages, and writing only the temporary
directory. Seccomp allows only listed system calls: no sockets, new processes, signals to others or shared memory, and
no changes of modes, owners or times of files.

Without these protections, code is not run unless USERSIM_SANDBOX=unprotected is set. Audit hooks in Python then stop
accidents, not an attacker. If started by root, the code runs as user 65534, provided that this user can read Python.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from usersim.errors import UsersimError
from usersim.types import Record

CHILD = Path(__file__).with_name("sandbox_child.py")
GRACE_S = 20.0
"""Seconds added to the wall limit for starting Python on a busy machine."""
LONGEST_CODE = 200_000
UNPROTECTED = "USERSIM_SANDBOX", "unprotected"
"""Environment variable and value that allow running code without kernel protection."""
SHARED = "numpy", "pandas", "matplotlib.pyplot", "scipy", "sklearn"


class SandboxError(UsersimError):
    """Error of the sandbox itself. Code that fails is not an error: it passes no tests."""


class SandboxLimits(Record):
    wall_s: float = 90.0
    cpu_s: int = 45
    memory_mb: int = 2048
    """Resident memory. The address space may be 1.5 times as large."""
    disk_mb: int = 256
    """Limit for all files together and for each one."""
    files: int = 2000


class SandboxOutcome(Record):
    passed: tuple[str, ...]
    expected: tuple[str, ...]
    """Names of the tests, read from their source before anything runs."""
    stopped: str | None = None
    """Limit that ended the run, as text. None if no limit did."""

    @property
    def share(self) -> float:
        return sum(min(self.passed.count(n), self.expected.count(n)) for n in {*self.expected}) / len(
            self.expected
        )


def run_tests(code: str, tests: str, limits: SandboxLimits | None = None) -> SandboxOutcome:
    """Runs `tests` against `code`. It blocks, so call it in a thread.

    Code that fails, misbehaves or ends the sandbox passes no tests; it raises no error.

    Args:
        code: Python source under test.
        tests: unittest classes, each method being a test (BigCodeBench); or statements, each `assert` and each call
            being a test (MBPP and HumanEval).
        limits: resource limits.

    Raises:
        SandboxError: there is no test in `tests`, or this machine lacks protection (`refusal`).
    """
    limits, expected = limits or SandboxLimits(), names_of(tests)
    if not expected:
        raise SandboxError("no test found: need unittest methods, or assert statements or calls")
    if reason := refusal():
        raise SandboxError(reason)
    if len(code) > LONGEST_CODE:
        return SandboxOutcome(passed=(), expected=expected, stopped="the code is too long")
    job = _Job(code, tests, limits, by_classes="." in expected[0])
    answer = _run(job, limits.wall_s + GRACE_S)
    return SandboxOutcome(passed=tuple(answer["passed"]), expected=expected, stopped=answer["stopped"])


def names_of(tests: str) -> tuple[str, ...]:
    """Returns `Class.method` of each unittest test, or else `line N` of each top-level assert or call."""
    try:
        body = ast.parse(tests).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise SandboxError(f"the tests are not Python ({error})") from error
    methods = tuple(  # of two methods of one name the later one counts
        f"{node.name}.{part.name}"
        for node in body
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name.startswith("test")
    )
    methods = tuple(dict.fromkeys(methods))
    return methods or tuple(
        f"line {node.lineno}"
        for node in body
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    )


@cache
def protections() -> dict[str, str]:
    """Returns the mechanism that protects files, and network and processes, on this machine."""
    mechanisms: dict[str, str] = _run(_Job("", "", SandboxLimits(), by_classes=False), 60.0)["protections"]
    return mechanisms


def refusal() -> str | None:
    """Returns the reason why code is not run on this machine, or None."""
    unprotected = sorted(
        resource for resource, mechanism in protections().items() if mechanism == "rules in Python"
    )
    if not unprotected or os.environ.get(UNPROTECTED[0]) == UNPROTECTED[1]:
        return None
    return (
        f"this kernel does not protect {' and '.join(unprotected)} from model-written code (needs Landlock, Linux "
        f"5.13, and seccomp); run it in a separate virtual machine, or set {'='.join(UNPROTECTED)} to accept the risk"
    )


@dataclass(frozen=True)
class _Job:
    code: str
    tests: str
    limits: SandboxLimits
    by_classes: bool

    def parts(self) -> bytes:
        """Serialises settings, code and tests, each after its length."""
        setting = {
            "limits": self.limits.model_dump(),
            "readable": _readable(),
            "unittest": self.by_classes,
            "imports": _slow_imports(self.code, self.tests),
            "test_imports": _import_statements(self.tests),
        }
        parts = [json.dumps(part).encode() for part in (setting, self.code, self.tests)]
        return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _import_statements(tests: str) -> list[str]:
    """Import statements of the tests: the only part of them that the code's process receives."""
    return [
        ast.unparse(node) for node in ast.parse(tests).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def _slow_imports(*sources: str) -> list[str]:
    """Slow packages that the code or the tests import; loaded once, before the processes fork."""
    names = set[str]()
    for source in sources:
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names.add(node.module or "")
    roots = {name.partition(".")[0] for name in names}
    shared = [name for name in SHARED if name.partition(".")[0] in roots]
    return shared + (["unittest.mock"] if any("mock" in name for name in names) else [])


def _run(job: _Job, timeout_s: float) -> dict[str, Any]:
    """Runs the supervisor process and returns its result: `protections`, `passed` and `stopped`."""
    folder = tempfile.mkdtemp(prefix="usersimsandbox")  # no character at which a test may split paths
    environment = {
        **{name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ},
        **dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME"), folder),
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        "MPLBACKEND": "Agg",
    }
    process = subprocess.Popen(
        [sys.executable, "-B", "-s", "-E", str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    errors = b""
    try:
        out, errors = process.communicate(job.parts(), timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        out = error.stdout or b""
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        remove_tree(folder)
    lines = out.decode(errors="replace").split("\n")
    if len(lines) < 2:  # not yet confined: none of the code has run
        last = errors.decode(errors="replace").strip().split("\n")[-1] or f"no output within {timeout_s:g} s"
        raise SandboxError(f"the sandbox did not start: {last}")
    # If the sandbox ends from here on, the code caused it.
    result: dict[str, Any] = (
        json.loads(lines[1]) if len(lines) > 2 else {"passed": [], "stopped": "the sandbox was ended"}
    )
    return {**result, "protections": json.loads(lines[0])}


def remove_tree(folder: str) -> None:
    """Removes a directory of any depth, where `shutil.rmtree` would exceed the recursion or path limit.

    Entries of its folders are moved up until all folders are empty.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    with contextlib.suppress(OSError):
        root = os.open(folder, flags)
        try:
            number, own = 0, f".lifted-{secrets.token_hex(8)}"
            while names := os.listdir(root):  # noqa: PTH208 - by descriptor
                for name in names:
                    number += _lift(root, name, number, flags, own)
        finally:
            os.close(root)
        Path(folder).rmdir()


def _lift(root: int, name: str, number: int, flags: int, own: str) -> int:
    """Removes one entry of `root` after moving its children up; returns the number of children."""
    try:
        os.unlink(name, dir_fd=root)
        return 0
    except (IsADirectoryError, PermissionError):
        os.chmod(name, 0o700, dir_fd=root)
    inner = os.open(name, flags, dir_fd=root)
    try:
        children = os.listdir(inner)  # noqa: PTH208 - by descriptor
        for offset, child in enumerate(children):
            os.rename(child, f"{own}-{number + offset}", src_dir_fd=inner, dst_dir_fd=root)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=root)
    return len(children)


def _readable() -> Sequence[str]:
    """Returns readable paths: Python, packages, system libraries, and what libraries read in /etc, /proc, /dev."""
    python_paths = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        *(path for path in sys.path if "site-packages" in path),
    ]
    return [path for path in dict.fromkeys([*python_paths, *SYSTEM]) if Path(path).exists()]


SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/sys/devices/system/cpu"),
    *(
        f"/etc/{name}"
        for name in ("ld.so.cache", "localtime", "mime.types", "ssl", "fonts", "passwd", "nsswitch.conf")
    ),
    *(f"/proc/{name}" for name in ("cpuinfo", "meminfo", "stat", "filesystems")),
    *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")),
)
