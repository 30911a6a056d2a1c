"""Many awaitables at once: all results, or the first error and an end to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def together(asked: Iterable[Awaitable[T]]) -> list[T]:
    """The results in order; the first error ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    await all_or_first_error(tasks)
    return [task.result() for task in tasks]


async def all_or_first_error(tasks: Iterable[asyncio.Future[T]]) -> None:
    """Waits for all; tasks that were cancelled one by one are no error."""
    waiting = set(tasks)
    try:
        while waiting:
            over, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
            for error in [task.exception() for task in over if not task.cancelled()]:
                if error is not None:
                    raise error
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
