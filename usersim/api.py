"""Public functions: sample one user turn, many, or a whole conversation, in this process or over HTTP."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from usersim.errors import ConfigError, UsersimError
from usersim.extras import cure_for
from usersim.populations.record import population_file, read_population
from usersim.populations.sample import Population
from usersim.remote.async_client import RemoteUser
from usersim.remote.sync_client import SyncRemoteUser
from usersim.text.user_acts import Act
from usersim.types import Conversation, Goal, Persona, Turn, UserProfile, UserTurn
from usersim.users.background_loop import run
from usersim.users.dialogue import Assistant, Watcher
from usersim.users.dialogue import converse as _converse
from usersim.users.guards import Guards
from usersim.users.plain_functions import PlainAssistant, PlainUser, as_user
from usersim.users.protocols import EndPolicy, Sampling, User, as_profile, as_turns
from usersim.users.userlm import UserLM

__all__ = [
    "as_profile",
    "as_turns",
    "asample",
    "connect",
    "converse",
    "load",
    "population",
    "run",
    "sample",
    "sample_many",
]

Turns = Sequence[Turn | Mapping[str, Any]]
AnyUser = User | SyncRemoteUser | PlainUser
Request = str | Goal | UserProfile | tuple[str | Goal | UserProfile, Turns] | Mapping[str, Any]


def load(
    model: str | Path | None = None,
    *,
    sampling: Sampling | None = None,
    end: EndPolicy | None = None,
    guards: Guards | None = None,
) -> UserLM:
    """Loads a User LM in this process. Needs torch.

    Args:
        model: Run directory, adapter or model folder. Default: the shipped User LM.
        sampling: Sampling parameters. Default: those of the model's `userlm.json`.
        end: End policy. Default: the user ends when the end token is sampled.
        guards: Guards against implausible turns. Default: all of them.

    Returns:
        A `UserLM`, the `user` of the other functions.

    Raises:
        ConfigError: There is no such model, it is damaged, or a package is missing.
        BackendError: The weights cannot be loaded.
    """
    try:
        from usersim.backends.transformers_local import LocalSampler
    except ImportError as error:
        cure = cure_for(error.name, "local") or str(error)
        raise ConfigError(f"{cure}, or use usersim.connect(url)") from error
    from usersim.rendering.renderer import Renderer
    from usersim.users.discriminator import discriminator_of
    from usersim.weights.default_model import resolve

    path = resolve(model)
    renderer = Renderer.from_pretrained(path)
    chosen = sampling or renderer.settings.decoding or Sampling()
    discriminator = discriminator_of(path, renderer, best_of=chosen.best_of)
    return UserLM(
        renderer,
        LocalSampler.from_pretrained(path),
        sampling=sampling,
        end=end,
        guards=guards,
        name=path.name,
        discriminator=discriminator,
    )


def population(model: str | Path | None = None) -> Population:
    """Loads the population of users of a model, whose `.sample(n, seed)` samples profiles.

        for profile in usersim.population().sample(100, seed=0):
            usersim.converse(my_chatbot, goal="plan a trip", persona=profile.persona)

    Args:
        model: As in `load`, or a `population.json`. Torch is not needed.

    Returns:
        The population.

    Raises:
        ConfigError: The model has no population, or the file is damaged.
    """
    return Population(read_population(population_file(model)))


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
    """Returns a client of a User LM behind `usersim serve`.

    It connects at the first request, and can be pickled and copied.

    Args:
        url: URL of the server, with or without `/v1`. A Unix socket is written `unix:/path.sock`.
        model: One of the server's names for the User LM.
        api_key: API key. Default: $USERSIM_API_KEY.
        timeout_s: Time limit of one request, in seconds.
        max_retries: Maximum number of retries after a retryable error.
        sync: Return a client whose methods need no `await`. Every function of usersim accepts both.

    Returns:
        A `RemoteUser`, or a `SyncRemoteUser` if `sync`.

    Raises:
        BackendError: Raised by requests, not here: the server does not answer.
    """
    key = api_key or os.environ.get("USERSIM_API_KEY")
    user = RemoteUser(url, model=model, api_key=key, timeout_s=timeout_s, max_retries=max_retries)
    if not sync:
        return user
    return SyncRemoteUser(user)


_default: RemoteUser | UserLM | None = None
_default_lock = threading.Lock()


def _async_user(user: AnyUser | None) -> User:
    """Returns an async user. Default: the endpoint at $USERSIM_URL, else the shipped model, loaded once."""
    if isinstance(user, SyncRemoteUser):
        return user.user  # the async client allows concurrent requests
    if user is not None:
        return as_user(user)
    global _default
    with _default_lock:
        if _default is None:
            url = os.environ.get("USERSIM_URL")
            _default = connect(url) if url else load()
        return _default


async def asample(
    *,
    goal: str | Goal | UserProfile | None = None,
    persona: str | Persona | None = None,
    turns: Turns = (),
    seed: int | None = None,
    user: AnyUser | None = None,
    act: Act | None = None,
) -> UserTurn:
    """Samples the simulated user's next turn; the async version of `sample`.

    Args:
        goal: As in `sample`.
        persona: As in `sample`.
        turns: As in `sample`.
        seed: As in `sample`.
        user: As in `sample`.
        act: As in `sample`.

    Returns:
        A `UserTurn`, as `sample`.

    Raises:
        UsersimError: As `sample`.
    """
    profile, history = as_profile(goal, persona), as_turns(turns)
    speaker = await asyncio.to_thread(_async_user, user)  # it may load a model
    if act is None:
        return await speaker(profile, history, seed=seed)
    if not isinstance(speaker, UserLM | RemoteUser):
        raise ConfigError(
            f"act={act}: only a User LM (usersim.load, usersim.connect) accepts an act; leave it out"
        )
    return (await speaker.sample(profile, history, seed=seed, act=act))[0]


def sample(
    *,
    goal: str | Goal | UserProfile | None = None,
    persona: str | Persona | None = None,
    turns: Turns = (),
    seed: int | None = None,
    user: AnyUser | None = None,
    act: Act | None = None,
) -> UserTurn:
    """Samples the simulated user's next turn.

        turn = usersim.sample(goal="plan a cheap weekend trip", persona="terse, lower case", seed=1)
        turn.text, turn.ends, turn.end_probability

    It works inside an event loop too (notebooks). `asample` is its async version.

    Args:
        goal: What the user wants, continuing "You want to": a sentence, or `Goal("…", facets=["…"])`. The
            assistant never sees it.
        persona: The user's character and style: a sentence, or a `Persona`. A `Persona` can have a measured `Style`.
        turns: History, empty or ending with the assistant. `Turn`s or chat messages (`as_turns`).
        seed: Seed of the turn; the same seed gives the same turn. Use another one for each turn of a conversation.
        user: Simulated user: `load(…)`, `connect(url)`, with or without `sync`, or a function. Default: the
            endpoint at $USERSIM_URL, else the shipped model in this process.
        act: Requested act of the turn: objects, corrects, asks, answers or thanks. It needs a history, and a model
            trained with acts (`acts` in its `userlm.json`).

    Returns:
        A `UserTurn`. If `ends` is true the user leaves and `text` is empty.

    Raises:
        ConfigError: An argument is invalid, or a package is missing.
        RenderError: The history does not alternate, does not end with the assistant, or is too long.
        GuardError: The guards rejected every attempt at the turn.
        BackendError: The model or the endpoint failed.
    """
    return run(asample(goal=goal, persona=persona, turns=turns, seed=seed, user=user, act=act))


def sample_many(
    requests: Sequence[Request],
    *,
    seed: int | None = None,
    user: AnyUser | None = None,
    concurrency: int = 64,
) -> list[UserTurn | UsersimError]:
    """Samples one turn per request, concurrently.

    Args:
        requests: Goals (a sentence, `Goal` or `UserProfile`), pairs (goal, turns), or dicts of arguments. The keys of a
            dict are those of `sample`: {"goal", "persona", "turns"}.
        seed: Base seed. Request i uses seed + i.
        user: As in `sample`.
        concurrency: Maximum number of requests at a time.

    Returns:
        One `UserTurn` per request, in order, or its `UsersimError` if it failed.

    Raises:
        ConfigError: There is no default user, or a package is missing.
    """
    speaker = _async_user(user)

    async def sample_all() -> list[UserTurn | UsersimError]:
        semaphore = asyncio.Semaphore(concurrency)

        async def one(index: int, request: Request) -> UserTurn | UsersimError:
            async with semaphore:
                try:
                    profile, turns = _profile_and_turns(request, index)
                    return await speaker(profile, turns, seed=None if seed is None else seed + index)
                except UsersimError as error:
                    return error

        return await asyncio.gather(*(one(index, request) for index, request in enumerate(requests)))

    return run(sample_all())


def _profile_and_turns(request: Request, index: int) -> tuple[UserProfile, list[Turn]]:
    if isinstance(request, Mapping):
        if unknown := sorted(request.keys() - {"goal", "persona", "turns"}):
            raise ConfigError(f"request {index}: {unknown[0]!r} is not a key; use goal, persona, turns")
        return as_profile(request.get("goal"), request.get("persona")), as_turns(request.get("turns", ()))
    if isinstance(request, (str, Goal, UserProfile)):
        return as_profile(request), []
    try:
        goal, turns = request
    except (TypeError, ValueError):
        raise ConfigError(
            f"request {index}: not a goal, a pair (goal, turns) or a dict; give one of them"
        ) from None
    return as_profile(goal), as_turns(turns)


def converse(
    assistant: Assistant | PlainAssistant,
    *,
    goal: str | Goal | UserProfile | None = None,
    persona: str | Persona | None = None,
    turns: Turns = (),
    max_user_turns: int = 8,
    system: str | None = None,
    seed: int | None = None,
    user: AnyUser | None = None,
    watch: Watcher | None = None,
) -> Conversation:
    """Runs a whole conversation between the simulated user and an assistant.

        usersim.converse(lambda turns: my_chatbot(turns[-1].text), goal="plan a cheap weekend trip")

    Args:
        assistant: Function from the `Turn`s so far, ending with the user's, to the text of the reply. It may be async.
            It also gets `system` and `seed` if it has keywords of these names.
        goal: As in `sample`. The assistant never sees it.
        persona: As in `sample`. The assistant never sees it.
        turns: History to start from. The role that did not write the last turn is next.
        max_user_turns: Number of user turns after which the conversation is cut.
        system: System prompt of the assistant. The user never sees it.
        seed: Seed of the conversation. Every turn has its own seed derived from it.
        user: As in `sample`.
        watch: Callback after each turn: (turn, its `UserTurn` or None); (None, `UserTurn`) when the user leaves.

    Returns:
        A `Conversation`; its `ended_by` is `user` if the user left, else `turn_cap`.

    Raises:
        UsersimError: As `sample`. Exceptions of `assistant` propagate.
    """
    speaker = _async_user(user)
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
