"""Extrinsic rewards by name: what they are asked for, and what they may use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from inspect import iscoroutinefunction
from typing import Any, Literal, TypeVar

from collab_train.contexts import Context
from usersim.chat_models.judge import Judge
from usersim.errors import ConfigError, DataError, UsersimError
from usersim.types import Conversation, Turn
from usersim.users.protocols import User

T = TypeVar("T")
Tool = Literal["judge", "user"]


class RewardError(UsersimError):
    """A future that cannot be scored. It is left out and counted, never scored 0."""


@dataclass(frozen=True)
class Episode:
    """One finished future of one candidate."""

    context: Context
    conversation: Conversation

    @property
    def window(self) -> tuple[Turn, ...]:
        return self.conversation.turns[len(self.context.turns) :]

    @property
    def replies(self) -> list[str]:
        """What the assistant says in the window; the candidate is the first."""
        return [turn.text for turn in self.window if turn.role == "assistant"]


@dataclass(frozen=True)
class Tools:
    """What an asynchronous reward may use besides the episode."""

    judge: Judge | None = None
    user: User | None = None
    """The user model of the rollout."""

    async def aclose(self) -> None:
        """Closes the judge; the user belongs to the rollout."""
        if self.judge is not None:
            await self.judge.aclose()


Plain = Callable[[Episode], float]
Asking = Callable[[Episode, Tools], Awaitable[float]]
Score = Plain | Asking
S = TypeVar("S", Plain, Asking)
Lacks = Callable[[Context], str | None]


@dataclass(frozen=True)
class Extrinsic:
    score: Any
    """`Plain`, or `Asking` if it is a coroutine function."""
    lacks: Lacks
    """What a context misses for this reward, in words, or None; asked before anything is spent."""
    blocking: bool = False
    """Takes its time (a process, a model): runs in a thread, of which there are as many as cores."""
    needs: Tool | None = None

    @property
    def waits(self) -> bool:
        return iscoroutinefunction(self.score)


EXTRINSIC: dict[str, Extrinsic] = {}


def extrinsic(
    name: str,
    *,
    lacks: Lacks = lambda context: None,
    blocking: bool = False,
    needs: Tool | None = None,
) -> Callable[[S], S]:
    """Registers `f(episode)`, or `async f(episode, tools)` for a reward that asks a judge or the user model."""

    def register(score: S) -> S:
        EXTRINSIC[name] = Extrinsic(score, lacks, blocking, needs)
        return score

    return register


def find(name: str) -> Extrinsic:
    if name not in EXTRINSIC:
        raise ConfigError(f"rewards.{name}: no such reward; there are {', '.join(sorted(EXTRINSIC))}")
    return EXTRINSIC[name]


def check(contexts: list[Context], weights: Mapping[str, float], tools: Tools | None = None) -> None:
    """Raises ConfigError for an unknown reward or, with `tools`, one that has not what it needs there; DataError
    for a context that cannot be scored by it."""
    for name in weights:
        reward = find(name)
        if tools is not None and reward.needs is not None and getattr(tools, reward.needs) is None:
            raise ConfigError(f"rewards.{name}: {MISSING[reward.needs]}")
        for context in contexts:
            if lack := reward.lacks(context):
                raise DataError(f"context {context.id}: reward {name} needs {lack}")


MISSING = {
    "judge": "it asks a judge; say judge=URL#MODEL, any OpenAI-compatible endpoint",
    "user": "it asks the user model, and none is at hand",
}


async def blocking(work: Callable[[], T]) -> T:
    """`work` in a thread. The event loop goes on, and no more run at once than there are cores."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), work)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="reward")
