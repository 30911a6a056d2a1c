"""Calls to engines that may be away for a while, and to models that may answer nothing."""

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
FRESH = 1_000_003
"""Added to the seed after an empty reply, as the user model does after a refused one."""


async def patiently(
    ask: Callable[[int], Awaitable[T]], *, retries: int, retried: Callable[[], None] = lambda: None
) -> T:
    """`ask(shift)`, again after what may pass: `shift` is to be added to the seed.

    An engine that is away is asked again, with the same seed, after 1, 2, 4, 8, 16, 16 … s, later where it says so
    (and up to a quarter more, so that not all come back at once): a restart takes longer than the few seconds that
    a front tells. An empty reply is asked for again at once, with another seed, twice.
    """
    away = empty = 0
    while True:
        try:
            return await ask(empty * FRESH)
        except EmptyReplyError as error:
            empty += 1
            if empty == EMPTY_TRIES:
                raise BackendError(f"{error} ({empty} seeds tried)") from error
        except BackendError as error:
            if not error.retryable or away == retries:
                raise
            told_s = error.wait_s if isinstance(error, TryLaterError) else None
            wait_s = max(min(2.0**away, LONGEST_WAIT_S), told_s or 0.0)
            away += 1
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.25))
        retried()
