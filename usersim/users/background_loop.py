"""Event loop in a background thread, for synchronous callers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from usersim.errors import UsersimError

T = TypeVar("T")


class _Background:
    """Event loop of this process, started at first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=_run_forever, args=(loop,), name="usersim", daemon=True).start()
                self._loop = loop  # not before its thread runs
            return self._loop


def _run_forever(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            return loop.run_forever()
        except (SystemExit, KeyboardInterrupt):  # the caller gets it from the future; the loop keeps running
            pass


_background = _Background()


def _reset_after_fork() -> None:
    # A forked child has no such thread, and a lock that another thread held stays locked in it.
    global _background
    _background = _Background()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the background event loop and returns its result.

    Open connections outlive the call, since all calls share one loop. Raises UsersimError if called on that loop
    itself, where it would deadlock.
    """
    loop = _background.loop
    if _running_loop() is loop:
        coroutine.close()
        raise UsersimError(
            "blocking call on usersim's own event loop, from a callback; await the async function there"
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:  # Ctrl-C: cancel work that has no caller any more
        future.cancel()
        raise


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
