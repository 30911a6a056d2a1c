"""Retries of calls to engines that may be unavailable, and to models that may return nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from usersim.errors import BackendError, EmptyReplyError
from usersim.remote.wire import TryLaterError

T = TypeVar("T")
LONGEST_WAIT_S = 16.0
EMPTY_TRIES = 3
SEED_STRIDE = 1_000_003
"""Added to the seed after an empty reply; the user model does the same after a refused one."""


async def retry(
    ask: Callable[[int], Awaitable[T]], *, retries: int, retried: Callable[[], None] = lambda: None
) -> T:
    """Awaits `ask(shift)` and retries it after passing failures.

    An unavailable engine is called again with the same seed, after 1, 2, 4, 8, 16, 16 … s or, if longer, the wait that
    it states. Up to 25 % of jitter is added. A restart takes longer than the few seconds that the API server states. An
    empty reply is requested again at once with another seed, twice.

    Args:
        ask: makes the call; `shift` is to be added to the seed.
        retries: maximum retries of an unavailable engine.
        retried: called before every retry.

    Raises:
        BackendError: the engine stays unavailable, or all replies are empty.
    """
    failures = empty_replies = 0
    while True:
        try:
            return await ask(empty_replies * SEED_STRIDE)
        except EmptyReplyError as error:
            empty_replies += 1
            if empty_replies == EMPTY_TRIES:
                raise BackendError(f"{error} ({empty_replies} seeds tried)") from error
        except BackendError as error:
            if not error.retryable or failures == retries:
                raise
            stated_wait_s = error.wait_s if isinstance(error, TryLaterError) else None
            wait_s = max(min(2.0**failures, LONGEST_WAIT_S), stated_wait_s or 0.0)
            failures += 1
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.25))
        retried()
