"""Concurrent awaiting with cancellation: returns all results, or raises the first error and cancels the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def gather(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Returns the results in order; the first error cancels the others and is raised."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    await all_or_first_error(tasks)
    return [task.result() for task in tasks]


async def all_or_first_error(tasks: Iterable[asyncio.Future[T]]) -> None:
    """Waits for all tasks; the first error cancels the others and is raised. Cancelled tasks are no error."""
    pending = set(tasks)
    try:
        while pending:
            finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
            for error in [task.exception() for task in finished if not task.cancelled()]:
                if error is not None:
                    raise error
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
