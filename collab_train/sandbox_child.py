"""The sandbox's own process: locks a child in, watches it, reports. Runs on its own, without the package.

Reads the job as JSON on stdin, answers on stdout. The outer process keeps its hands off the code: it forks, and kills
the inner one as soon as a limit is passed. The inner one is locked in (`lock`), then runs code and tests.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import resource
import signal
import sys
import time
import types
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sandbox_kernel as kernel  # type: ignore[import-not-found]

sys.path.pop(0)  # this folder: code under test must not import the files next to this one

MB = 1024 * 1024
POLL_S = 0.03
LOOKS_AT_FILES_S = 0.2


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    kernel.become_nobody(job["readable"])
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        inner(job, write_end)
    os.close(write_end)
    stopped, lines = watch(pid, read_end, job["limits"])
    json.dump({"stopped": stopped, "lines": lines}, sys.stdout)


# The outer process: watches.


def watch(pid: int, read_end: int, limits: dict[str, float]) -> tuple[str | None, list[str]]:
    os.set_blocking(read_end, False)
    began, looked, said, stopped = time.monotonic(), 0.0, bytearray(), None
    while True:
        said += read(read_end)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            stopped = "CPU time" if by_signal == signal.SIGXCPU else None
            break
        look = time.monotonic() - looked > LOOKS_AT_FILES_S
        looked = time.monotonic() if look else looked
        if stopped := exceeded(pid, limits, time.monotonic() - began, look, len(said)):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        time.sleep(POLL_S)
    return stopped, (said + read(read_end)).decode(errors="replace").splitlines()


def read(read_end: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(read_end, MB)
    return b""


def exceeded(pid: int, limits: dict[str, float], seconds: float, look: bool, said: int) -> str | None:
    if seconds > limits["wall_s"]:
        return "time"
    if said > MB:
        return "too much said to the harness"
    if resident(pid) > limits["memory_mb"] * MB:
        return "memory"
    return "disk" if look and too_many_files(limits) else None


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0


def too_many_files(limits: dict[str, float]) -> bool:
    size = count = 0
    for folder, _, names in os.walk("."):
        count += 1
        for name in names:
            with contextlib.suppress(OSError):
                size += (Path(folder) / name).lstat().st_blocks * 512
            count += 1
            if count > limits["files"]:
                return True
    return size > limits["disk_mb"] * MB


# The inner process: locked in, runs the code.


def inner(job: dict[str, Any], write_end: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    set_limits(job["limits"])
    kept = lock(job["readable"])
    os.write(write_end, f"protections {json.dumps(kept)}\n".encode())
    try:
        run(job, write_end)
    finally:
        os._exit(0)


def set_limits(limits: dict[str, float]) -> None:
    wanted = {
        resource.RLIMIT_CPU: int(limits["cpu_s"]),
        resource.RLIMIT_AS: int(limits["memory_mb"] * 1.5) * MB,
        resource.RLIMIT_FSIZE: int(limits["disk_mb"]) * MB,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for what, value in wanted.items():
        hard = resource.getrlimit(what)[1]
        # One above the soft limit: SIGXCPU says why it ended, SIGKILL ends what ignores that.
        top = value + 1 if hard == resource.RLIM_INFINITY else min(value + 1, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (min(value, top), top))


def lock(readable: list[str]) -> dict[str, str]:
    """Landlock for files, seccomp for sockets, processes and signals; where the kernel has them not, Python's rules."""
    files, calls = kernel.landlock(readable), kernel.seccomp()
    if not (files and calls):
        refuse(readable, files=not files, calls=not calls)
    weak = "rules in Python"
    return {"files": "Landlock" if files else weak, "network and processes": "seccomp" if calls else weak}


def refuse(readable: list[str], *, files: bool, calls: bool) -> None:
    """Where the kernel does not help: Python's own events, refused. Native code passes them by."""
    own = os.path.realpath(".") + os.sep
    below = (own, f"/proc/{os.getpid()}/", *(os.path.realpath(path) + os.sep for path in readable))
    changes = (
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.mkdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.chmod",
    )
    starts = (
        *("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "subprocess.Popen", "pty.spawn"),
        *("os.kill", "os.killpg", "socket.bind", "socket.connect", "socket.sendto", "socket.getaddrinfo"),
    )

    def inside(path: Any, *folders: str) -> bool:
        if isinstance(path, int) or path is None:
            return True
        return (os.path.realpath(os.fsdecode(path)) + os.sep).startswith(folders)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if calls and event in starts:
            raise PermissionError(f"{event} is not allowed here")
        if files and event == "open":
            path, mode, flags = arguments
            writes = any(c in str(mode) for c in "wxa+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
            if not inside(path, *((own,) if writes and path != os.devnull else below)):
                raise PermissionError(f"{path!r} is not allowed here")
        if files and event in ("os.listdir", "os.scandir") and not inside(arguments[0], *below):
            raise PermissionError(f"{event} is not allowed there")
        if files and event in changes and not inside(arguments[0], own):
            raise PermissionError(f"{event} is not allowed there")

    sys.addaudithook(hook)


def run(job: dict[str, Any], write_end: int) -> None:
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    nonce = job["nonce"]

    def report(name: str) -> None:
        os.write(write_end, f"{nonce} {name}\n".encode())

    exec(compile(job["code"], "solution.py", "exec"), module.__dict__)
    tree = ast.parse(job["tests"])
    if job["unittest"]:
        exec(compile(tree, "tests.py", "exec"), module.__dict__)
        run_classes(
            [node.name for node in tree.body if isinstance(node, ast.ClassDef)], module.__dict__, report
        )
    else:
        run_statements(tree.body, module.__dict__, report)


def run_classes(names: list[str], scope: dict[str, Any], report: Callable[[str], None]) -> None:
    for name in names:
        if not issubclass(scope[name], unittest.TestCase):
            continue
        for method in unittest.TestLoader().getTestCaseNames(scope[name]):
            result = unittest.TestResult()
            unittest.TestSuite([scope[name](method)]).run(result)
            if result.wasSuccessful() and result.testsRun and not result.skipped:
                report(f"{name}.{method}")


def run_statements(body: list[ast.stmt], scope: dict[str, Any], report: Callable[[str], None]) -> None:
    for node in body:
        counts = isinstance(node, ast.Assert) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        )
        try:
            exec(compile(ast.Module([node], []), "tests.py", "exec"), scope)
        except BaseException:  # SystemExit as well: leaving early passes nothing
            continue
        if counts:
            report(f"line {node.lineno}")


if __name__ == "__main__":
    main()
