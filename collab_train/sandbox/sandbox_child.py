"""Supervisor process of the sandbox: starts the code and its judge, watches both, reports. Runs without the package.

Both processes are forked here and confined (`lock`). The code's process is forked before the tests are read, so its
memory never holds them. It can only answer the judge (`sandbox_link`), and the judge alone reports which tests pass.
This process does not talk to either. It kills both as soon as one exceeds a limit.

Input on stdin: settings, code and tests, each as its length and JSON. Output on stdout: one line of JSON when both
processes are confined, and one with the result.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sandbox_code  # type: ignore[import-not-found]
import sandbox_judge  # type: ignore[import-not-found]
import sandbox_kernel as kernel  # type: ignore[import-not-found]

sys.path.pop(0)  # code under test must not import the files of this folder

MB = 1024 * 1024
POLL_S = 0.01
FILE_SCAN_INTERVAL_S = 0.1
DEEPEST = 64
"""Maximum levels of folders."""
MOST_THREADS = 64


def main() -> None:
    setting = read_json()
    kernel.drop_privileges(setting["readable"])
    kernel.stay_watchable()
    for name in setting["imports"]:
        with contextlib.suppress(Exception):
            imported: Any = importlib.import_module(name)
            if name == "matplotlib.pyplot":
                # pyplot would switch at the first figure and set the signature of a function that a test has patched.
                imported.switch_backend("agg")
    ends = [end.detach() for end in socket.socketpair()]
    report_end, judge_report = os.pipe()
    code = read_json()
    code_pid = start(
        setting,
        lambda: sandbox_code.serve(ends[1], code, setting["test_imports"]),
        closed_descriptors=(ends[0], report_end),
        report_descriptor=judge_report,
    )
    os.close(ends[1])
    tests = read_json()

    def report(name: str) -> None:
        os.write(judge_report, f"{name}\n".encode())

    judge_pid = start(
        setting,
        lambda: sandbox_judge.run(ends[0], tests, setting["unittest"], report),
        closed_descriptors=(report_end,),
        report_descriptor=None,
    )
    os.close(ends[0])
    os.close(judge_report)
    protections = read_line(report_end)
    os.write(1, f"{protections}\n".encode())
    stopped, lines = watch(code_pid, judge_pid, report_end, setting["limits"])
    os.write(1, f"{json.dumps({'stopped': stopped, 'passed': lines})}\n".encode())


def read_json() -> Any:
    """Reads exactly one part of stdin: the parts after it must not reach the code's process."""
    size = int.from_bytes(read_exactly(8), "little")
    return json.loads(read_exactly(size))


def read_exactly(size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = os.read(0, size - len(content))
        if not piece:
            raise EOFError("the job on stdin is incomplete")
        content += piece
    return content


def read_line(descriptor: int) -> str:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 1)
        if not piece:
            raise EOFError("the code's process did not start")
        line += piece
    return line.decode().strip()


# Supervisor.


def watch(code: int, judge: int, report_end: int, limits: dict[str, float]) -> tuple[str | None, list[str]]:
    os.set_blocking(report_end, False)
    start_s, last_scan_s, output, stopped = time.monotonic(), 0.0, bytearray(), None
    running, statuses = {code, judge}, dict[int, int]()
    while judge in running and stopped is None:
        piece = read(report_end)
        output += piece
        if not piece:
            time.sleep(0.001)  # at its end the pipe is always ready
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                statuses[pid] = status
        scans_files = time.monotonic() - last_scan_s > FILE_SCAN_INTERVAL_S
        last_scan_s = time.monotonic() if scans_files else last_scan_s
        stopped = exceeded(running, limits, time.monotonic() - start_s, scans_files)
        if judge in running:
            select.select([report_end], [], [], POLL_S)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        _, statuses[pid] = os.waitpid(pid, 0)
    if any(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU for status in statuses.values()):
        stopped = stopped or "CPU time"
    return stopped, (output + read(report_end)).decode(errors="replace").split("\n")[:-1]


def read(read_end: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(read_end, MB)
    return b""


def exceeded(pids: set[int], limits: dict[str, float], seconds: float, scans_files: bool) -> str | None:
    if seconds > limits["wall_s"]:
        return "time"
    for pid in pids:
        if resident(pid) > limits["memory_mb"] * MB:
            return "memory"
        if threads(pid) > MOST_THREADS:
            return "threads"
    return "disk" if scans_files and too_many_files(pids, limits) else None


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0


def threads(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[17])
    return 0


def too_many_files(pids: set[int], limits: dict[str, float]) -> bool:
    """True if files in the working directory, or unlinked files still open, exceed the limits."""
    count = 0
    size = sum(unlinked(pid) for pid in pids)
    folders = [(".", 0)]
    while folders:
        folder, depth = folders.pop()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                count += 1
                if count > limits["files"] or depth > DEEPEST:
                    return True
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, depth + 1))
    return size > limits["disk_mb"] * MB


def unlinked(pid: int) -> int:
    """Returns the bytes of unlinked files that the process holds open or mapped."""
    sizes: dict[int, int] = {}
    for table in ("fd", "map_files"):
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{pid}/{table}").iterdir():
                with contextlib.suppress(OSError):
                    status = file.stat()
                    if status.st_nlink == 0:
                        sizes[status.st_ino] = status.st_blocks * 512
    return sum(sizes.values())


# Confined processes.


def start(
    setting: dict[str, Any],
    work: Callable[[], None],
    *,
    closed_descriptors: tuple[int, ...],
    report_descriptor: int | None,
) -> int:
    """Forks a confined process that runs `work`; writes its protections to `report_descriptor`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for descriptor in closed_descriptors:
            os.close(descriptor)
        null_device = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null_device, number)
        set_limits(setting["limits"])
        protections = lock(setting["readable"])
        if report_descriptor is not None:
            os.write(report_descriptor, f"{json.dumps(protections)}\n".encode())
            os.close(report_descriptor)
        work()
    finally:
        os._exit(0)


def set_limits(limits: dict[str, float]) -> None:
    soft_limits = {
        resource.RLIMIT_CPU: int(limits["cpu_s"]),
        resource.RLIMIT_AS: int(limits["memory_mb"] * 1.5) * MB,
        resource.RLIMIT_FSIZE: int(limits["disk_mb"]) * MB,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in soft_limits.items():
        hard = resource.getrlimit(limit)[1]
        # One above the soft limit: SIGXCPU gives the reason, and SIGKILL ends a process that ignores it.
        capped_hard = value + 1 if hard == resource.RLIM_INFINITY else min(value + 1, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (min(value, capped_hard), capped_hard))


def lock(readable: list[str]) -> dict[str, str]:
    """Confines this process with Landlock (files) and seccomp (system calls), or else with Python's audit hooks."""
    files, calls = kernel.landlock(readable), kernel.seccomp()
    if calls:
        check_paths_of_pretended_calls()
    if not (files and calls):
        refuse(readable, files=not files, calls=not calls)
    audit_hooks = "rules in Python"
    return {
        "files": "Landlock" if files else audit_hooks,
        "network and processes": "seccomp" if calls else audit_hooks,
    }


def check_paths_of_pretended_calls() -> None:
    """Makes calls that only pretend (`sandbox_calls.PRETENDED`) fail for missing files, so that `Path.touch` makes one.

    This is not a protection.
    """
    import posix  # not on every platform

    for name in ("chmod", "chown", "lchown", "utime"):
        pretended = getattr(os, name)
        checked = _with_path_check(pretended, os.stat, follows=name != "lchown")
        for supporting in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if pretended in supporting:
                supporting.add(checked)
        setattr(os, name, checked)
        setattr(posix, name, checked)


def _with_path_check(
    pretended: Callable[..., None], stat: Callable[..., Any], *, follows: bool
) -> Callable[..., None]:
    @functools.wraps(pretended)
    def checked(path: Any, *arguments: Any, **options: Any) -> None:
        stat_options = {
            "dir_fd": options.get("dir_fd"),
            "follow_symlinks": options.get("follow_symlinks", follows),
        }
        stat(path, **stat_options)
        pretended(path, *arguments, **options)

    return checked


def refuse(readable: list[str], *, files: bool, calls: bool) -> None:
    """Refuses audit events of Python, where the kernel lacks protection. Native code bypasses this."""
    working_folder = os.path.realpath(".") + os.sep
    readable_folders = (
        working_folder,
        f"/proc/{os.getpid()}/",
        *(os.path.realpath(path) + os.sep for path in readable),
    )
    write_events = (
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.mkdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.chmod",
    )
    process_events = (
        *("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "subprocess.Popen", "pty.spawn"),
        *("os.kill", "os.killpg", "socket.bind", "socket.connect", "socket.sendto", "socket.getaddrinfo"),
    )

    def inside(path: Any, *folders: str) -> bool:
        if isinstance(path, int) or path is None:
            return True
        return (os.path.realpath(os.fsdecode(path)) + os.sep).startswith(folders)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if calls and event in process_events:
            raise PermissionError(f"{event} is not allowed here")
        if files and event == "open":
            path, mode, flags = arguments
            writes = any(c in str(mode) for c in "wxa+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))
            if not inside(path, *((working_folder,) if writes and path != os.devnull else readable_folders)):
                raise PermissionError(f"{path!r} is not allowed here")
        if files and event in ("os.listdir", "os.scandir") and not inside(arguments[0], *readable_folders):
            raise PermissionError(f"{event} is not allowed there")
        if files and event in write_events and not inside(arguments[0], working_folder):
            raise PermissionError(f"{event} is not allowed there")

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
