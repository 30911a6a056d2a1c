"""Adapters for plain functions as assistants and users: functions that are not `async` run in a thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from usersim.errors import ConfigError, UsersimError
from usersim.types import Turn, UserProfile, UserTurn

if TYPE_CHECKING:
    from usersim.users.dialogue import Assistant
    from usersim.users.protocols import User

P = ParamSpec("P")
T = TypeVar("T")

PlainAssistant = Callable[..., str | Awaitable[str]]
"""`(turns) -> str`, optionally with keywords `system` and `seed`; async or not."""
PlainUser = Callable[..., UserTurn | Awaitable[UserTurn]]
"""`(profile, turns, *, seed) -> UserTurn`, async or not."""


def as_assistant(assistant: Assistant | PlainAssistant, *, system: str | None = None) -> Assistant:
    """Wraps a plain function as an `Assistant`; only the keywords that it accepts are passed on.

    Raises ConfigError if it is not callable, or if a system prompt is given and it accepts no `system`.
    """
    takes = _keywords(assistant)
    if system is not None and "system" not in takes:
        raise ConfigError(
            "a system prompt is given, but the assistant has no `system` parameter; "
            "write it as `def assistant(turns, *, system=None)`"
        )
    if _is_async(assistant) and takes >= {"system", "seed"}:
        return cast("Assistant", assistant)
    ask = _awaited(assistant)

    async def reply(turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None) -> str:
        options = {key: value for key, value in {"system": system, "seed": seed}.items() if key in takes}
        return await ask(turns, **options)

    return reply


def as_user(user: User | PlainUser) -> User:
    """Wraps a plain function as a `User`; an async one is returned unchanged. Raises ConfigError if not callable."""
    if not callable(user):
        raise ConfigError(
            f"user={user!r}: neither a user nor a function (usersim.load(), usersim.connect(url))"
        )
    return cast("User", user) if _is_async(user) else _ThreadedUser(user)


class _ThreadedUser:
    def __init__(self, user: PlainUser) -> None:
        self.name = str(getattr(user, "name", "user"))
        self._ask = _awaited(user)

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        return await self._ask(profile, turns, seed=seed)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _keywords(assistant: Callable[..., Any]) -> set[str]:
    """Returns those of `system` and `seed` that the function accepts."""
    if not callable(assistant):
        raise ConfigError(
            f"assistant={assistant!r}: not a function; write `def assistant(turns): return ...`"
        )
    try:
        parameters = inspect.signature(assistant).parameters
    except (ValueError, TypeError):  # a function written in C
        return set()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return {"system", "seed"}
    return {"system", "seed"} & parameters.keys()


def _awaited(function: Callable[P, T | Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Makes `function` awaitable. Unless it is async it runs in a thread, so that it does not block the event loop."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T | Awaitable[T]:
        try:
            return function(*args, **kwargs)
        except StopIteration as error:  # a future cannot hold one: the loop would wait forever
            raise UsersimError(
                "a plain function raised StopIteration: its iterator has no more items"
            ) from error

    async def awaited(*args: P.args, **kwargs: P.kwargs) -> T:
        value = (
            call(*args, **kwargs) if _is_async(function) else await asyncio.to_thread(call, *args, **kwargs)
        )
        return await value if inspect.isawaitable(value) else value

    return awaited
