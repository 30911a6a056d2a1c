"""The public functions: one user turn, many, or a whole conversation, in this process or over HTTP."""

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
    """A User LM in this process: the shipped one, a run directory or a model folder. Needs torch."""
    try:
        from usersim.backends.transformers_local import LocalSampler
    except ImportError as error:
        cure = cure_for(error.name, "local") or str(error)
        raise ConfigError(f"{cure}, or use usersim.connect(url)") from error
    from usersim.decoding.discriminator import discriminator_of
    from usersim.rendering.renderer import Renderer
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
    """The population of users that belongs to a model; `.sample(n, seed)` draws profiles from it.

        for profile in usersim.population().sample(100, seed=0):
            usersim.converse(my_chatbot, goal="plan a trip", persona=profile.persona)

    Args:
        model: As in `load`, or a `population.json`. Needs no torch.

    Raises:
        ConfigError: the model has no population, or the file is damaged.
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
    """The same user behind `usersim serve`. It connects when it is asked, and can be pickled and copied.

    Args:
        url: Of the server, with or without `/v1`; `unix:/path.sock` for a Unix socket.
        model: One of the server's names for the User LM.
        api_key: Default: $USERSIM_API_KEY.
        timeout_s: How long one request may take.
        max_retries: How often a request that may succeed later is tried again.
        sync: The same methods without `await`. Every function of usersim takes either.
    """
    key = api_key or os.environ.get("USERSIM_API_KEY")
    user = RemoteUser(url, model=model, api_key=key, timeout_s=timeout_s, max_retries=max_retries)
    if not sync:
        return user
    return SyncRemoteUser(user)


_default: RemoteUser | UserLM | None = None
_default_lock = threading.Lock()


def _speaker(user: AnyUser | None) -> User:
    """`user`, ready to be awaited; without one the endpoint at $USERSIM_URL, else the shipped model, loaded once."""
    if isinstance(user, SyncRemoteUser):
        return user.user  # as many requests at once as the async client has
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
    """The simulated user's next turn; `sample` says what the arguments are."""
    profile, history = as_profile(goal, persona), as_turns(turns)
    speaker = await asyncio.to_thread(_speaker, user)  # it may load a model
    if act is None:
        return await speaker(profile, history, seed=seed)
    if not isinstance(speaker, UserLM | RemoteUser):
        raise ConfigError(
            f"act={act}: only a User LM, here or behind the endpoint, can be told what a turn does"
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
    """The simulated user's next turn.

        said = usersim.sample(goal="plan a cheap weekend trip", persona="terse, lower case", seed=1)
        said.text, said.ends, said.end_probability

    Works inside an event loop too (notebooks); `asample` is the same to be awaited.

    Args:
        goal: What the user wants, as it reads on from "You want to": a sentence, or `Goal("…", facets=["…"])`. The
            assistant never sees it.
        persona: Who is talking and how: a sentence, or a `Persona` with a measured `Style`.
        turns: What was said so far, empty or ending with the assistant: `Turn`s or chat messages (`as_turns`).
        seed: The same seed asks for the same turn. Give another one for each turn of a conversation.
        user: Who plays the human: `load(…)`, `connect(url)`, with or without `sync`, or a function. Default: the
            endpoint at $USERSIM_URL, else the shipped model in this process.
        act: What the turn is to do: objects, corrects, asks, answers or thanks. After the first exchange, and of a
            model that was trained to be told (`acts` in its `userlm.json`).

    Returns:
        A `UserTurn`. Where `ends` is true the user leaves and `text` is empty.

    Raises:
        ConfigError: Arguments that cannot be used, or a package that is missing.
        RenderError: A history that does not alternate, does not end with the assistant or is too long.
        GuardError: Every attempt at a turn was rejected.
        BackendError: The model or the endpoint did not answer.
    """
    return run(asample(goal=goal, persona=persona, turns=turns, seed=seed, user=user, act=act))


def sample_many(
    requests: Sequence[Request],
    *,
    seed: int | None = None,
    user: AnyUser | None = None,
    concurrency: int = 64,
) -> list[UserTurn | UsersimError]:
    """One turn for each request, in order; a failed one is its error.

    Args:
        requests: Each a goal (a sentence, `Goal` or `UserProfile`), a pair (goal, turns), or a dict of the arguments of
            `sample`: {"goal", "persona", "turns"}.
        seed: Request i draws from seed + i.
        user: As in `sample`.
        concurrency: How many are under way at a time.
    """
    speaker = _speaker(user)

    async def everything() -> list[UserTurn | UsersimError]:
        gate = asyncio.Semaphore(concurrency)

        async def one(index: int, request: Request) -> UserTurn | UsersimError:
            async with gate:
                try:
                    profile, turns = _situation(request, index)
                    return await speaker(profile, turns, seed=None if seed is None else seed + index)
                except UsersimError as error:
                    return error

        return await asyncio.gather(*(one(index, request) for index, request in enumerate(requests)))

    return run(everything())


def _situation(request: Request, index: int) -> tuple[UserProfile, list[Turn]]:
    if isinstance(request, Mapping):
        if unknown := sorted(request.keys() - {"goal", "persona", "turns"}):
            raise ConfigError(f"request {index}: {unknown[0]!r} is none of goal, persona, turns")
        return as_profile(request.get("goal"), request.get("persona")), as_turns(request.get("turns", ()))
    if isinstance(request, (str, Goal, UserProfile)):
        return as_profile(request), []
    try:
        goal, turns = request
    except (TypeError, ValueError):
        raise ConfigError(f"request {index}: neither a goal, nor (goal, turns), nor a dict of both") from None
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
    """A whole conversation between the simulated user and an assistant.

        usersim.converse(lambda turns: my_chatbot(turns[-1].text), goal="plan a cheap weekend trip")

    Args:
        assistant: A function of the `Turn`s so far, the last the user's, that returns the text of the reply; async or
            not. It is told `system` and `seed` too where it takes keywords of these names.
        goal, persona: As in `sample`.
        turns: Where to start from; whoever did not speak last speaks next.
        max_user_turns: The conversation is cut after so many turns of the user.
        system: The assistant's system prompt; the user never sees it.
        seed: Of the whole conversation; every turn draws from a seed of its own.
        user: As in `sample`.
        watch: Called with each turn as it comes.

    Returns:
        A `Conversation`; `ended_by` says whether the user left.

    Raises:
        UsersimError: As `sample`; whatever `assistant` raises goes through.
    """
    speaker = _speaker(user)
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
