"""File locks between processes. The kernel releases the lock of a killed process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from usersim.errors import BackendError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def lock(handle: int, *, wait: bool = False) -> Literal["ours", "taken", "unknown"]:
    """Locks an open file until it is closed. Returns `unknown` if the system or file system has no locks."""
    if fcntl is None:
        return "unknown"
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return "taken"
    except OSError:
        return "unknown"
    return "ours"


@contextmanager
def locked(target: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of `target`: a lock on a hidden file beside it.

    Raises BackendError if another process holds it, unless `wait`.
    """
    target = Path(target).absolute()
    if not target.name:
        raise BackendError(f"{target} cannot be written to as a whole; name a folder or file in it")
    path = target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(path, wait=wait)
    if handle is None:
        raise BackendError(f"another process is writing to {target}; wait for it, or choose another place")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock is released, so that no other process holds this file
        os.close(handle)


def _acquire(path: Path, *, wait: bool) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        state = lock(handle, wait=wait)
        # The holder removes the file on release: another process may hold a new one by now.
        if state == "unknown" or (state == "ours" and _is_still(path, handle)):
            return handle
        os.close(handle)
        if state == "taken":
            return None


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
