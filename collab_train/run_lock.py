"""Lock of a run directory: two processes that append to one journal would lose lines of both."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from usersim.errors import ConfigError

NAME = ".lock"


@contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Locks `folder` until the block or the process ends. The ranks of one launch share the lock of rank 0.

    Raises:
        ConfigError: another process holds the lock.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    path = Path(folder) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"{folder} is in use by another run (process {holder}); wait for it to end, or choose another out=…"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
