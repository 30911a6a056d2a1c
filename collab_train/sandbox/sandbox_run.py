"""Code of an assistant against the tests of a task, in processes that cannot harm the machine.

The tests run in a process of their own, the judge, and call the code in another through a narrow channel
(`sandbox_link`). The code's process holds neither the tests nor what they expect; what passes is what the judge says.

What holds everywhere: limits on wall time, CPU, memory, threads, files and their sizes; a temporary directory of their
own; an empty environment; no output kept. What the kernel adds (`protections`): a file system of which only Python and
its packages are readable and only the temporary directory is writable (Landlock), and of the system calls only those on
a list (seccomp): no sockets, no further processes, no signals to others, no shared memory, no modes, owners or times of
files. Where the kernel cannot, code is not run, unless USERSIM_SANDBOX=unprotected says so: rules inside Python then
stop accidents, not an attacker. Started by root, the code runs as nobody, if nobody may read the Python that runs it.
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
"""Beyond the wall limit, for the start of Python on a busy machine."""
LONGEST_CODE = 200_000
UNPROTECTED = "USERSIM_SANDBOX", "unprotected"
"""Environment variable and its value by which the operator runs code where the kernel does not protect."""
SHARED = "numpy", "pandas", "matplotlib.pyplot", "scipy", "sklearn"


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
        return sum(min(self.passed.count(n), self.expected.count(n)) for n in {*self.expected}) / len(
            self.expected
        )


def run_tests(code: str, tests: str, limits: Limits | None = None) -> Outcome:
    """Runs `tests` against the functions and classes that `code` defines. Blocks; call it in a thread.

    `tests` holds unittest classes (each method is a test, as in BigCodeBench), or else statements, of which each
    `assert` and each call is a test (as in MBPP and HumanEval). Code that fails, misbehaves or ends the sandbox passes
    nothing; it never raises.

    Raises:
        SandboxError: the tests hold no test, or this machine cannot protect itself (`refusal`).
    """
    limits, expected = limits or Limits(), names_of(tests)
    if not expected:
        raise SandboxError("the tests hold no test: neither unittest methods nor assert statements")
    if reason := refusal():
        raise SandboxError(reason)
    if len(code) > LONGEST_CODE:
        return Outcome(passed=(), expected=expected, stopped="the code is too long")
    job = _Job(code, tests, limits, by_classes="." in expected[0])
    answer = _run(job, limits.wall_s + GRACE_S)
    return Outcome(passed=tuple(answer["passed"]), expected=expected, stopped=answer["stopped"])


def names_of(tests: str) -> tuple[str, ...]:
    """`Class.method` of unittest tests; else `line N` of each assert or call at the top level."""
    try:
        body = ast.parse(tests).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise SandboxError(f"the tests are not Python ({error})") from error
    methods = tuple(  # of two of one name the later one counts
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
    """What keeps code from files, from the network and from starting processes on this machine."""
    kept: dict[str, str] = _run(_Job("", "", Limits(), by_classes=False), 60.0)["protections"]
    return kept


def refusal() -> str | None:
    """Why code is not run on this machine, or None."""
    weak = sorted(what for what, by in protections().items() if by == "rules in Python")
    if not weak or os.environ.get(UNPROTECTED[0]) == UNPROTECTED[1]:
        return None
    return (
        f"this kernel does not protect {' and '.join(weak)} from code of a model (it needs Landlock, Linux 5.13, and "
        f"seccomp); run it in a virtual machine of its own, or set {'='.join(UNPROTECTED)} to run it all the same"
    )


@dataclass(frozen=True)
class _Job:
    code: str
    tests: str
    limits: Limits
    by_classes: bool

    def parts(self) -> bytes:
        """Setting, code and tests, each behind its length."""
        setting = {
            "limits": self.limits.model_dump(),
            "readable": _readable(),
            "unittest": self.by_classes,
            "imports": _imported(self.code, self.tests),
            "test_imports": _import_statements(self.tests),
        }
        parts = [json.dumps(part).encode() for part in (setting, self.code, self.tests)]
        return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _import_statements(tests: str) -> list[str]:
    """All that the code's process learns of the tests."""
    return [
        ast.unparse(node) for node in ast.parse(tests).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def _imported(*sources: str) -> list[str]:
    """Packages that code and tests both may use and that take long to import: loaded once, before the two part."""
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
    """What the sandbox's own process answers: `protections`, `passed` and `stopped`."""
    folder = tempfile.mkdtemp(prefix="usersimsandbox")  # no sign at which a test may split paths
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
    complaints = b""
    try:
        out, complaints = process.communicate(job.parts(), timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        out = error.stdout or b""
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        remove_tree(folder)
    lines = out.decode(errors="replace").split("\n")
    if len(lines) < 2:  # not even locked in: none of the code has run
        last = (
            complaints.decode(errors="replace").strip().split("\n")[-1] or f"no word within {timeout_s:g} s"
        )
        raise SandboxError(f"the sandbox did not start: {last}")
    # Whatever ends the sandbox from here on is the doing of the code.
    result: dict[str, Any] = (
        json.loads(lines[1]) if len(lines) > 2 else {"passed": [], "stopped": "the sandbox was ended"}
    )
    return {**result, "protections": json.loads(lines[0])}


def remove_tree(folder: str) -> None:
    """Removes a directory however deep it is: `shutil.rmtree` recurses, and long paths cannot be named.

    Whatever lies in a folder of it is moved up, until all are empty.
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
    """Removes one entry of `root`, moving what is in it up into `root`. Returns how many names that took."""
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
