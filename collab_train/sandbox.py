"""Code of an assistant against the tests of a task, in a process that cannot harm the machine.

What holds everywhere: a process group of its own, killed as a whole; limits on wall time, CPU, memory, files and their
sizes; a temporary directory of its own; an empty environment; no output kept. What the kernel adds where it can
(`protections`): a file system of which only Python and its packages are readable and only the temporary directory is
writable (Landlock), no sockets, no further processes, no signals to others (seccomp). Where it cannot, rules inside
Python refuse the same; they stop accidents, not an attacker. Started by root, the code runs as nobody, if nobody may
read the Python that runs it.

A test counts when the harness itself reports it: printing "passed", or leaving early with status 0, passes nothing.
Code that redefines what its tests compare with can still cheat; no sandbox sees that.
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
from functools import cache
from pathlib import Path
from typing import Any

from usersim.errors import UsersimError
from usersim.types import Record

CHILD = Path(__file__).with_name("sandbox_child.py")
GRACE_S = 20.0
"""Beyond the wall limit, for the start of Python on a busy machine."""
LONGEST_CODE = 200_000


class SandboxError(UsersimError):
    """The sandbox itself did not work. Code that fails is not an error: it passes no tests."""


class Limits(Record):
    wall_s: float = 90.0
    cpu_s: int = 45
    memory_mb: int = 2048
    """Resident; the address space may be half as large again."""
    disk_mb: int = 256
    """All files together, and each one."""
    files: int = 2000


class Outcome(Record):
    passed: tuple[str, ...]
    expected: tuple[str, ...]
    """Names of the tests, read from their source before anything runs."""
    stopped: str | None = None
    """Which limit ended it, in words."""

    @property
    def share(self) -> float:
        return len(set(self.passed) & set(self.expected)) / len(self.expected)


def run_tests(code: str, tests: str, limits: Limits | None = None) -> Outcome:
    """Runs `tests` after `code` in one module. Blocks; call it in a thread.

    `tests` holds unittest classes (each method is a test, as in BigCodeBench), or else statements, of which each
    `assert` and each call is a test (as in MBPP and HumanEval).
    """
    limits, expected = limits or Limits(), names_of(tests)
    if not expected:
        raise SandboxError("the tests hold no test: neither unittest methods nor assert statements")
    if len(code) > LONGEST_CODE:
        return Outcome(passed=(), expected=expected, stopped="the code is too long")
    nonce = secrets.token_hex(16)
    spec = _job(code, tests, nonce, limits) | {"unittest": "." in expected[0]}
    with tempfile.TemporaryDirectory(prefix="usersim-sandbox-", ignore_cleanup_errors=True) as folder:
        answer = _child(spec, folder, limits.wall_s + GRACE_S)
    lines = [line.removeprefix(nonce + " ") for line in answer["lines"] if line.startswith(nonce + " ")]
    return Outcome(passed=tuple(lines), expected=expected, stopped=answer["stopped"])


def names_of(tests: str) -> tuple[str, ...]:
    """`Class.method` of unittest tests; else `line N` of each assert or call at the top level."""
    try:
        body = ast.parse(tests).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise SandboxError(f"the tests are not Python ({error})") from error
    methods = tuple(
        f"{node.name}.{part.name}"
        for node in body
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name.startswith("test")
    )
    return methods or tuple(
        f"line {node.lineno}"
        for node in body
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    )


@cache
def protections() -> dict[str, str]:
    """What keeps code from files, from the network and from starting processes on this machine."""
    with tempfile.TemporaryDirectory(prefix="usersim-sandbox-") as folder:
        first: str = _child(_job("", "", "", Limits()), folder, 60.0)["lines"][0]
    found: dict[str, str] = json.loads(first.removeprefix("protections "))
    return found


def _job(code: str, tests: str, nonce: str, limits: Limits) -> dict[str, Any]:
    return {
        "code": code,
        "tests": tests,
        "nonce": nonce,
        "limits": limits.model_dump(),
        "readable": _readable(),
        "unittest": False,
    }


def _child(spec: dict[str, Any], folder: str, timeout_s: float) -> dict[str, Any]:
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
    try:
        out, said = process.communicate(json.dumps(spec).encode(), timeout=timeout_s)
        answer: dict[str, Any] = json.loads(out)
        return answer
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"the sandbox gave no answer within {timeout_s:g} s") from error
    except ValueError as error:
        last = said.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise SandboxError(f"the sandbox did not start: {last[0]}") from error
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _readable() -> Sequence[str]:
    """Python, its packages and the system's libraries; of /etc, /proc and /dev only what libraries look at."""
    own = [
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        *(path for path in sys.path if "site-packages" in path),
    ]
    return [path for path in dict.fromkeys([*own, *SYSTEM]) if Path(path).exists()]


SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/sys/devices/system/cpu"),
    *(
        f"/etc/{name}"
        for name in ("ld.so.cache", "localtime", "mime.types", "ssl", "fonts", "passwd", "nsswitch.conf")
    ),
    *(f"/proc/{name}" for name in ("cpuinfo", "meminfo", "stat", "filesystems")),
    *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")),
)
