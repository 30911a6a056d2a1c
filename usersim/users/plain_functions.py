"""Plain functions where the loop awaits: an assistant or a user that is not `async` runs in a thread."""

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
"""`(turns) -> str`, with `system` and `seed` as keywords where it wants them; async or not."""
PlainUser = Callable[..., UserTurn | Awaitable[UserTurn]]
"""`(profile, turns, *, seed) -> UserTurn`, async or not."""


def as_assistant(assistant: Assistant | PlainAssistant, *, system: str | None = None) -> Assistant:
    """An `Assistant` that awaits what may be a plain function, and is told only what that takes.

    Raises ConfigError where it is no function, or takes no `system` while there is one.
    """
    takes = _keywords(assistant)
    if system is not None and "system" not in takes:
        raise ConfigError(
            "a system prompt was given, and the assistant takes none; "
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
    """A `User` that awaits what may be a plain function; one that is async stays what it is."""
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
    """Which of `system` and `seed` it takes."""
    if not callable(assistant):
        raise ConfigError(
            f"assistant={assistant!r}: not a function; write `def assistant(turns): return ...`"
        )
    try:
        parameters = inspect.signature(assistant).parameters
    except (ValueError, TypeError):  # one written in C
        return set()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return {"system", "seed"}
    return {"system", "seed"} & parameters.keys()


def _awaited(function: Callable[P, T | Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """`function` in a thread unless it is async, so that the event loop goes on meanwhile."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T | Awaitable[T]:
        try:
            return function(*args, **kwargs)
        except StopIteration as error:  # a future cannot hold one: the loop would wait for ever
            raise UsersimError("an iterator ran out in a plain function: it has no more to say") from error

    async def awaited(*args: P.args, **kwargs: P.kwargs) -> T:
        value = (
            call(*args, **kwargs) if _is_async(function) else await asyncio.to_thread(call, *args, **kwargs)
        )
        return await value if inspect.isawaitable(value) else value

    return awaited
