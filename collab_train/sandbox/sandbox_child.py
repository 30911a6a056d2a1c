"""The sandbox's own process: starts the code and its judge, locked in, watches both, reports. Runs without the package.

The code's process and the judge's are forked here and locked in (`lock`). The code's is forked before the tests are
read: they are nowhere in its memory. It can only answer the judge (`sandbox_link`), and what passes is what the judge
says. This process keeps its hands off both, and kills them as soon as one passes a limit.

On stdin: setting, code and tests, each as its length and JSON. On stdout: one line of JSON when both are locked in, one
with the result.
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

sys.path.pop(0)  # this folder: code under test must not import the files next to this one

MB = 1024 * 1024
POLL_S = 0.01
LOOKS_AT_FILES_S = 0.1
DEEPEST = 64
"""Levels of folders."""
MOST_THREADS = 64


def main() -> None:
    setting = read_json()
    kernel.become_nobody(setting["readable"])
    kernel.stay_watchable()
    for name in setting["imports"]:
        with contextlib.suppress(Exception):
            imported: Any = importlib.import_module(name)
            if name == "matplotlib.pyplot":
                # It would do so at the first figure, and sign a function that a test has put in place of its own.
                imported.switch_backend("agg")
    ends = [end.detach() for end in socket.socketpair()]
    report_end, judge_report = os.pipe()
    code = read_json()
    code_pid = start(
        setting,
        lambda: sandbox_code.serve(ends[1], code, setting["test_imports"]),
        closes=(ends[0], report_end),
        says=judge_report,
    )
    os.close(ends[1])
    tests = read_json()

    def report(name: str) -> None:
        os.write(judge_report, f"{name}\n".encode())

    judge_pid = start(
        setting,
        lambda: sandbox_judge.run(ends[0], tests, setting["unittest"], report),
        closes=(report_end,),
        says=None,
    )
    os.close(ends[0])
    os.close(judge_report)
    protections = read_line(report_end)
    os.write(1, f"{protections}\n".encode())
    stopped, lines = watch(code_pid, judge_pid, report_end, setting["limits"])
    os.write(1, f"{json.dumps({'stopped': stopped, 'passed': lines})}\n".encode())


def read_json() -> Any:
    """The next part of stdin and not a byte more: what follows is not the code's to know."""
    size = int.from_bytes(read_exactly(8), "little")
    return json.loads(read_exactly(size))


def read_exactly(size: int) -> bytes:
    content = b""
    while len(content) < size:
        piece = os.read(0, size - len(content))
        if not piece:
            raise EOFError("the job is cut off")
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


# The outer process: watches.


def watch(code: int, judge: int, report_end: int, limits: dict[str, float]) -> tuple[str | None, list[str]]:
    os.set_blocking(report_end, False)
    began, looked, said, stopped = time.monotonic(), 0.0, bytearray(), None
    running, statuses = {code, judge}, dict[int, int]()
    while judge in running and stopped is None:
        piece = read(report_end)
        said += piece
        if not piece:
            time.sleep(0.001)  # at its end the pipe is always ready
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.discard(pid)
                statuses[pid] = status
        look = time.monotonic() - looked > LOOKS_AT_FILES_S
        looked = time.monotonic() if look else looked
        stopped = exceeded(running, limits, time.monotonic() - began, look)
        if judge in running:
            select.select([report_end], [], [], POLL_S)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        _, statuses[pid] = os.waitpid(pid, 0)
    if any(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU for status in statuses.values()):
        stopped = stopped or "CPU time"
    return stopped, (said + read(report_end)).decode(errors="replace").split("\n")[:-1]


def read(read_end: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(read_end, MB)
    return b""


def exceeded(pids: set[int], limits: dict[str, float], seconds: float, look: bool) -> str | None:
    if seconds > limits["wall_s"]:
        return "time"
    for pid in pids:
        if resident(pid) > limits["memory_mb"] * MB:
            return "memory"
        if threads(pid) > MOST_THREADS:
            return "threads"
    return "disk" if look and too_many_files(pids, limits) else None


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
    """Of the working directory, and those that are open still but have no name there any more."""
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
    """Bytes of files without a name that the process holds open or mapped."""
    sizes: dict[int, int] = {}
    for table in ("fd", "map_files"):
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{pid}/{table}").iterdir():
                with contextlib.suppress(OSError):
                    about = file.stat()
                    if about.st_nlink == 0:
                        sizes[about.st_ino] = about.st_blocks * 512
    return sum(sizes.values())


# The inner processes: locked in.


def start(
    setting: dict[str, Any], work: Callable[[], None], *, closes: tuple[int, ...], says: int | None
) -> int:
    """Forks a process that does `work`, locked in; says how on descriptor `says`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for descriptor in closes:
            os.close(descriptor)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        set_limits(setting["limits"])
        kept = lock(setting["readable"])
        if says is not None:
            os.write(says, f"{json.dumps(kept)}\n".encode())
            os.close(says)
        work()
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
    if calls:
        miss_what_is_not_there()
    if not (files and calls):
        refuse(readable, files=not files, calls=not calls)
    weak = "rules in Python"
    return {"files": "Landlock" if files else weak, "network and processes": "seccomp" if calls else weak}


def miss_what_is_not_there() -> None:
    """Lets calls that only pretend (`sandbox_calls.PRETENDED`) fail for a path without a file: `Path.touch` makes one
    then. Not a protection."""
    import posix  # not everywhere

    for name in ("chmod", "chown", "lchown", "utime"):
        pretended = getattr(os, name)
        checked = _checked(pretended, os.stat, follows=name != "lchown")
        for supporting in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
            if pretended in supporting:
                supporting.add(checked)
        setattr(os, name, checked)
        setattr(posix, name, checked)


def _checked(
    pretended: Callable[..., None], stat: Callable[..., Any], *, follows: bool
) -> Callable[..., None]:
    @functools.wraps(pretended)
    def checked(path: Any, *arguments: Any, **options: Any) -> None:
        where = {"dir_fd": options.get("dir_fd"), "follow_symlinks": options.get("follow_symlinks", follows)}
        stat(path, **where)
        pretended(path, *arguments, **options)

    return checked


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


if __name__ == "__main__":
    main()
