"""The public functions: one user turn, many, or a whole conversation, in this process or over HTTP."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from usersim.client import RemoteUser
from usersim.dialogue import Assistant, Watcher
from usersim.dialogue import converse as _converse
from usersim.errors import ConfigError, UsersimError
from usersim.guards import Guards
from usersim.sampling import EndPolicy, Sampling, User, as_profile
from usersim.types import Conversation, Goal, Persona, Turn, UserProfile, UserTurn
from usersim.userlm import UserLM

if TYPE_CHECKING:
    from usersim.sync_client import SyncRemoteUser

T = TypeVar("T")
Turns = Sequence[Turn | dict[str, str]]


def load(
    model: str | Path | None = None,
    *,
    sampling: Sampling | None = None,
    end: EndPolicy | None = None,
    guards: Guards | None = None,
) -> UserLM:
    """A User LM in this process: the shipped one, a run directory or a model folder. Needs torch."""
    try:
        from usersim.backends.local import LocalSampler
    except ImportError as error:
        raise ConfigError(
            f"{error}; run `pip install 'usersim-lm[local]'` or use usersim.connect(url)"
        ) from error
    from usersim.model import resolve
    from usersim.render import Renderer

    path = resolve(model)
    return UserLM(
        Renderer.from_pretrained(path),
        LocalSampler.from_pretrained(path),
        sampling=sampling,
        end=end,
        guards=guards,
        name=path.name,
    )


@overload
def connect(
    url: str,
    *,
    model: str = "userlm",
    api_key: str | None = None,
    timeout_s: float = 120.0,
    max_retries: int = 2,
    sync: Literal[False] = False,
) -> RemoteUser: ...


@overload
def connect(
    url: str,
    *,
    model: str = "userlm",
    api_key: str | None = None,
    timeout_s: float = 120.0,
    max_retries: int = 2,
    sync: Literal[True],
) -> SyncRemoteUser: ...


def connect(
    url: str,
    *,
    model: str = "userlm",
    api_key: str | None = None,
    timeout_s: float = 120.0,
    max_retries: int = 2,
    sync: bool = False,
) -> RemoteUser | SyncRemoteUser:
    """The same user behind `usersim serve` at `url`; the key defaults to $USERSIM_API_KEY.

    `sync`: the same methods for code without an event loop.
    """
    key = api_key or os.environ.get("USERSIM_API_KEY")
    user = RemoteUser(url, model=model, api_key=key, timeout_s=timeout_s, max_retries=max_retries)
    if not sync:
        return user
    from usersim.sync_client import SyncRemoteUser  # it runs on this module's event loop

    return SyncRemoteUser(user)


@cache
def _default_user() -> RemoteUser | UserLM:
    url = os.environ.get("USERSIM_URL")
    return connect(url) if url else load()


async def asample(
    *,
    goal: str | Goal | None = None,
    persona: str | Persona | None = None,
    turns: Turns = (),
    seed: int | None = None,
    user: User | None = None,
) -> UserTurn:
    """The user's next turn after `turns` (empty, or ending with the assistant).

    `turns` holds `Turn`s or {"role", "text"} / {"role", "content"} dicts. Without `user`: the endpoint at
    $USERSIM_URL, else the shipped model in this process.
    """
    return await (user or _default_user())(as_profile(goal, persona), as_turns(turns), seed=seed)


def sample(
    *,
    goal: str | Goal | None = None,
    persona: str | Persona | None = None,
    turns: Turns = (),
    seed: int | None = None,
    user: User | None = None,
) -> UserTurn:
    """`asample` for code without an event loop; works inside one too (notebooks)."""
    return run(asample(goal=goal, persona=persona, turns=turns, seed=seed, user=user))


def sample_many(
    requests: Sequence[tuple[UserProfile, Turns]],
    *,
    seed: int | None = None,
    user: User | None = None,
    concurrency: int = 64,
) -> list[UserTurn | UsersimError]:
    """One turn per (profile, turns), in order; a failed one is its error. Request i draws from seed + i."""
    speaker = user or _default_user()

    async def everything() -> list[UserTurn | UsersimError]:
        gate = asyncio.Semaphore(concurrency)

        async def one(index: int, profile: UserProfile, turns: Turns) -> UserTurn | UsersimError:
            async with gate:
                try:
                    return await speaker(
                        profile, as_turns(turns), seed=None if seed is None else seed + index
                    )
                except UsersimError as error:
                    return error

        return await asyncio.gather(*(one(i, p, t) for i, (p, t) in enumerate(requests)))

    return run(everything())


def converse(
    assistant: Assistant,
    *,
    goal: str | Goal | None = None,
    persona: str | Persona | None = None,
    turns: Turns = (),
    max_user_turns: int = 8,
    system: str | None = None,
    seed: int | None = None,
    user: User | None = None,
    watch: Watcher | None = None,
) -> Conversation:
    """A whole conversation with `assistant`, an async callable `(turns, *, system, seed) -> str`."""
    speaker = user or _default_user()
    return run(
        _converse(
            speaker,
            assistant,
            as_profile(goal, persona),
            turns=as_turns(turns),
            max_user_turns=max_user_turns,
            system=system,
            seed=seed,
            source=getattr(speaker, "name", "userlm"),
            watch=watch,
        )
    )


def as_turns(turns: Turns) -> list[Turn]:
    """Raises ConfigError for a dict that is not a turn."""
    made = []
    for index, turn in enumerate(turns):
        if isinstance(turn, Turn):
            made.append(turn)
            continue
        text = turn.get("text", turn.get("content"))
        role = turn.get("role")
        if not isinstance(text, str) or role not in ("user", "assistant"):
            raise ConfigError(f"turn {index}: needs role user|assistant and a text, got {sorted(turn)}")
        made.append(Turn(role="user" if role == "user" else "assistant", text=text))
    return made


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs on one background event loop, so that open connections outlive a call."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="usersim", daemon=True).start()
    return loop
