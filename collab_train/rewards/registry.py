"""Registry of extrinsic rewards, with the records that they receive."""

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
    """Error for a future that cannot be scored. The future is left out and counted, never scored 0."""


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
        """Assistant turns of the window; the candidate is the first."""
        return [turn.text for turn in self.window if turn.role == "assistant"]


@dataclass(frozen=True)
class Tools:
    """Models that an asynchronous reward may call."""

    judge: Judge | None = None
    user: User | None = None
    """User model of the rollout."""

    async def aclose(self) -> None:
        """Closes the judge; the user belongs to the rollout."""
        if self.judge is not None:
            await self.judge.aclose()


SyncReward = Callable[[Episode], float]
AsyncReward = Callable[[Episode, Tools], Awaitable[float]]
Score = SyncReward | AsyncReward
S = TypeVar("S", SyncReward, AsyncReward)
MissingInput = Callable[[Context], str | None]


@dataclass(frozen=True)
class Extrinsic:
    score: Any
    """`SyncReward`, or `AsyncReward` if it is a coroutine function."""
    lacks: MissingInput
    """Returns what the context lacks for this reward, as text, or None. Called before any simulation."""
    blocking: bool = False
    """True for slow rewards (a process, a model). They run in threads, at most one per core."""
    needs: Tool | None = None

    @property
    def is_async(self) -> bool:
        return iscoroutinefunction(self.score)


EXTRINSIC: dict[str, Extrinsic] = {}


def extrinsic(
    name: str,
    *,
    lacks: MissingInput = lambda context: None,
    blocking: bool = False,
    needs: Tool | None = None,
) -> Callable[[S], S]:
    """Decorator that registers `f(episode)`, or `async f(episode, tools)` for a reward that calls a model.

    Args:
        name: key in a config.
        lacks: returns what a context lacks, as text, or None.
        blocking: True to run in a thread.
        needs: model that the reward calls.
    """

    def register(score: S) -> S:
        EXTRINSIC[name] = Extrinsic(score, lacks, blocking, needs)
        return score

    return register


def find(name: str) -> Extrinsic:
    if name not in EXTRINSIC:
        raise ConfigError(f"rewards.{name}: unknown reward; choose one of {', '.join(sorted(EXTRINSIC))}")
    return EXTRINSIC[name]


def check(contexts: list[Context], weights: Mapping[str, float], tools: Tools | None = None) -> None:
    """Checks that the rewards can score the contexts.

    Raises:
        ConfigError: a reward is unknown or, with `tools`, the model that it needs is missing there.
        DataError: a context cannot be scored by one of the rewards.
    """
    for name in weights:
        reward = find(name)
        if tools is not None and reward.needs is not None and getattr(tools, reward.needs) is None:
            raise ConfigError(f"rewards.{name}: {MISSING[reward.needs]}")
        for context in contexts:
            if missing_part := reward.lacks(context):
                raise DataError(f"context {context.id}: reward {name} needs {missing_part}")


MISSING = {
    "judge": "needs a judge; set judge=URL#MODEL, any OpenAI-compatible endpoint",
    "user": "needs a user model, but there is none",
}


async def blocking(work: Callable[[], T]) -> T:
    """Runs `work` in a thread without blocking the event loop, at most one per core at once."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), work)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="reward")
