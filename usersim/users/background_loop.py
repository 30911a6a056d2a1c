"""One event loop in a background thread, for code without a loop of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from usersim.errors import UsersimError

T = TypeVar("T")


class _Background:
    """The loop of this process, started at its first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=_run_for_ever, args=(loop,), name="usersim", daemon=True).start()
                self._loop = loop  # not before its thread runs
            return self._loop


def _run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            return loop.run_forever()
        except (SystemExit, KeyboardInterrupt):  # the caller gets it from the future; the loop goes on
            pass


_background = _Background()


def _start_over() -> None:
    # A forked child has no such thread, and a lock that another thread held stays locked in it.
    global _background
    _background = _Background()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs on the one background event loop, so that open connections outlive a call.

    Raises UsersimError where it is called on that very loop: there it would wait for itself.
    """
    loop = _background.loop
    if _running_loop() is loop:
        coroutine.close()
        raise UsersimError(
            "a call that waits was made on usersim's own event loop, from a callback; await the async function there"
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:  # Ctrl-C: work without a caller must not go on
        future.cancel()
        raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
