"""Parser of specifications of simulators.

A specification is `NAME=KIND:ARGUMENT[;prompt=PROMPT]`:

    userlm:MODEL                    a User LM in this process (folder, run directory or userlm-135m)
    userlm:MODEL@http://ENGINE      the same behind a vLLM server
    endpoint:URL[#MODEL]            `usersim serve`
    chat:URL[#MODEL]                any OpenAI-compatible endpoint, prompted to play the user
    chat:MODEL                      a chat model in this process, prompted to play the user
    base:MODEL[@http://ENGINE]      a chat model that continues the conversation unprompted
    nearest:TRAIN.jsonl             the turn that followed the nearest context of these conversations
    policy:POLICY+KIND:ARGUMENT     any of the above under a policy of `usersim.users.policies`
    file:TURNS.jsonl                precomputed turns
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from eval.next_turn.turns import SimulatedTurns, read_turns
from usersim.errors import ConfigError
from usersim.types import Record, Turn, UserProfile, UserTurn
from usersim.users.guards import Guards
from usersim.users.policies import policy_from, with_policy
from usersim.users.prompted import BY_NAME, PromptedUser, prompt_hash
from usersim.users.protocols import EndPolicy, Sampling, User

if TYPE_CHECKING:
    from usersim.remote.async_client import RemoteUser
    from usersim.users.userlm import UserLM

KINDS = ("userlm", "endpoint", "chat", "base", "nearest", "policy", "file")
PROMPT = "impersonal"
"""Default prompt: the most likely on dev for the 135M base, on two of the three corpora (docs/results)."""
BEST_OF_HELP = "candidates per turn, of which the discriminator chooses; User LMs only (default: 1)"
ADDRESSES = ("http://", "https://", "unix:")


class DrawSettings(Record):
    """Sampling and guards, the same for all simulators of a comparison."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=192, ge=1, le=4096)
    guards: Literal["off", "on"] = "off"
    """off: only empty turns are resampled, so that faults are measured. on: the default guards."""
    seed: int = 0
    best_of: int = Field(default=1, ge=1, le=16)
    """Candidates of each turn (User LMs only), of which the model's discriminator chooses."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)

    @property
    def user_sampling(self) -> Sampling:
        """`sampling` of a User LM."""
        return self.sampling.model_copy(update={"best_of": self.best_of})

    @property
    def guard_rules(self) -> Guards:
        if self.guards == "on":
            return Guards()
        return Guards.off().model_copy(update={"empty": True, "attempts": 4})

    def described(self) -> str:
        return (
            f"temperature {self.temperature:g}, top_p {self.top_p:g}, at most {self.max_tokens} tokens, "
            f"guards {self.guards}, seed {self.seed}"
        )


def checked_best_of(number: int) -> int:
    """Raises ConfigError for what `--best-of` cannot be."""
    if not 1 <= number <= 16:
        raise ConfigError(f"--best-of {number}: between 1 and 16")
    return number


@dataclass(frozen=True)
class Simulator:
    """Simulator that turns are drawn from. Nothing is loaded before the first turn that the journal lacks."""

    name: str
    kind: str
    source: str
    """Model, address or file behind it."""
    identity: dict[str, str]
    """Everything that its turns depend on: weights, prompt, sampling, guards, seed."""
    tells_end: bool
    """True if its turns carry a P(end)."""
    open: Callable[[], User]
    settings: DrawSettings


def simulator_from(specification: str, settings: DrawSettings | None = None) -> Simulator | SimulatedTurns:
    """Returns the simulator of a specification; for `file:` its turns.

    Raises:
        ConfigError: The specification is malformed, or what it names is not usable.
        DataError: The file of precomputed turns is malformed.
    """
    name, equals, rest = specification.partition("=")
    kind, colon, argument = rest.partition(":")
    if not (name and equals and colon and argument) or kind not in KINDS:
        raise ConfigError(
            f"--simulator {specification!r}: write NAME=KIND:ARGUMENT, with KIND one of {', '.join(KINDS)}"
        )
    if kind == "file":
        return read_turns(argument, name)
    settings = settings or DrawSettings()
    source, options = _options(argument, specification)
    if options and kind not in ("chat", "policy"):
        raise ConfigError(f"--simulator {specification!r}: only chat takes a prompt")
    simulator = _KIND[kind](name, source, options, settings)
    identity = {"name": name, **simulator.identity, **_settings_text(settings)}
    return replace(simulator, identity=identity)


# -- kinds -----------------------------------------------------------------------------------------

Options = dict[str, str]


def _options(argument: str, specification: str) -> tuple[str, Options]:
    source, *pairs = argument.split(";")
    options: Options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key != "prompt" or not equals or value not in BY_NAME:
            raise ConfigError(
                f"--simulator {specification!r}: after `;` only prompt=NAME, one of {', '.join(BY_NAME)}"
            )
        options[key] = value
    return source, options


def _settings_text(settings: DrawSettings) -> dict[str, str]:
    dumped = settings.model_dump(exclude={"best_of"})  # in the identity of those that it changes
    settings_text = {key: str(value) for key, value in dumped.items()}
    return {**settings_text, "guards": settings.guard_rules.model_dump_json()}


def at_engine(argument: str) -> tuple[str, str | None]:
    """Parses `MODEL@ADDRESS` into (model, address of its engine or None)."""
    model, at, address = argument.rpartition("@")
    if at and address.startswith(ADDRESSES):
        return model, address
    return argument, None


def _userlm(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    from eval.likelihood.scored import weights_hash
    from usersim.rendering.renderer import Renderer
    from usersim.users.discriminator import discriminator_of
    from usersim.weights.default_model import DISCRIMINATOR_FILE, file_hash, resolve

    model, engine = at_engine(source)
    path = resolve(model)
    renderer = Renderer.from_pretrained(path)
    chooses = settings.best_of > 1
    discriminator = discriminator_of(path, renderer, best_of=settings.best_of) if chooses else None
    sampling = settings.user_sampling

    def open_user() -> User:
        from usersim.users.userlm import UserLM

        user = UserLM(
            renderer,
            _sampler(path, engine),
            sampling=sampling,
            guards=settings.guard_rules,
            name=name,
            discriminator=discriminator,
        )
        return _EndBanned(user, sampling)

    identity = {"weights": weights_hash(path), "render": renderer.fingerprint}
    if (calibration := renderer.settings.calibration) is not None:  # P(end) goes through it
        identity["calibration"] = calibration.model_dump_json()
    if chooses:
        identity |= {"best_of": str(settings.best_of), "discriminator": file_hash(path / DISCRIMINATOR_FILE)}
    return Simulator(name, "userlm", model, identity, True, open_user, settings)


def _endpoint(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    from usersim.api import connect

    url, _, model = source.partition("#")
    _check_address(url, name)
    identity = {"url": url, "model": model}
    if settings.best_of > 1:
        identity["best_of"] = str(settings.best_of)

    def open_user() -> User:
        return _EndBanned(connect(url, model=model) if model else connect(url), settings.user_sampling)

    return Simulator(name, "endpoint", source, identity, True, open_user, settings)


def _chat(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    prompt = BY_NAME[options.get("prompt", PROMPT)]
    sampling = settings.sampling.model_dump(include={"temperature", "top_p", "max_tokens"})
    url, _, model = source.partition("#")
    identity = {"prompt": prompt_hash(prompt)}
    if not source.startswith(ADDRESSES):
        from eval.likelihood.scored import weights_hash
        from usersim.weights.default_model import resolve

        path = resolve(source)
        identity["weights"] = weights_hash(path)
    else:
        identity |= {"url": "", "model": model} if model else {"url": url, "model": ""}

    def open_user() -> User:
        from usersim.chat_models.openai_chat import ChatSettings, HttpChat

        chat_settings = ChatSettings(**sampling)
        chat: Any
        if source.startswith(ADDRESSES):
            key = os.environ.get("OPENAI_API_KEY")
            chat = HttpChat(url, model=model or None, api_key=key, settings=chat_settings)
        else:
            from usersim.chat_models.local_chat import LocalChat

            chat = LocalChat.from_pretrained(path, settings=chat_settings)
        return PromptedUser(chat, name=name, prompt=prompt)

    description = f"{source}, prompt {options.get('prompt', PROMPT)}"
    return Simulator(name, "chat", description, identity, False, open_user, settings)


def _base(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    from eval.likelihood.scored import weights_hash
    from usersim.weights.default_model import resolve

    model, engine = at_engine(source)
    path = resolve(model)

    def open_user() -> User:
        from eval.next_turn.simulators.baselines import UnpromptedUser

        return UnpromptedUser.from_pretrained(path, _sampler(path, engine), settings.sampling)

    return Simulator(name, "base", model, {"weights": weights_hash(path)}, True, open_user, settings)


def _nearest(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    from usersim.weights.default_model import file_hash

    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of training conversations")

    def open_user() -> User:
        from eval.next_turn.simulators.baselines import NearestUser
        from usersim.storage.records import read_conversations

        return NearestUser(read_conversations(path), seed=settings.seed)

    return Simulator(name, "nearest", path.name, {"train": file_hash(path)}, True, open_user, settings)


def _policy(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    written, plus, inner = source.partition("+")
    if not plus:
        raise ConfigError(f"{name}=policy:{source}: write policy:POLICY+KIND:ARGUMENT")
    prompt = "".join(f";{key}={value}" for key, value in options.items())
    under = simulator_from(f"{name}={inner}{prompt}", settings)
    if isinstance(under, SimulatedTurns):
        raise ConfigError(f"{name}=policy:{source}: precomputed turns cannot follow a policy")
    policy = policy_from(written, seed=settings.seed)

    def open_user() -> User:
        return with_policy(under.open(), policy)

    identity = {
        **under.identity,
        "policy": policy.model_dump_json(),
        "policy_name": written.partition(":")[0],
    }
    return Simulator(name, "policy", source, identity, under.tells_end, open_user, settings)


def _sampler(path: Path, engine: str | None) -> Any:
    if engine is not None:
        from usersim.backends.vllm_http import HttpSampler

        return HttpSampler(engine)
    from usersim.backends.transformers_local import LocalSampler

    return LocalSampler.from_pretrained(path)


def _check_address(url: str, name: str) -> None:
    if not url.startswith(ADDRESSES):
        raise ConfigError(f"{name}: {url!r} is no address; it begins with http://, https:// or unix:")


_KIND: dict[str, Callable[[str, str, Options, DrawSettings], Simulator]] = {
    "userlm": _userlm,
    "endpoint": _endpoint,
    "chat": _chat,
    "base": _base,
    "nearest": _nearest,
    "policy": _policy,
}


# -- end banned ------------------------------------------------------------------------------------


class _EndBanned:
    """`User` whose text is drawn with the end banned, over a `UserLM` or the endpoint's client."""

    def __init__(self, user: UserLM | RemoteUser, sampling: Sampling) -> None:
        self.user, self.sampling, self.name = user, sampling, user.name

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        completions = await self.user.sample(
            profile,
            turns,
            seed=seed,
            sampling=self.sampling,
            end=EndPolicy(mode="never"),
            affinity=_affinity(profile, turns),
        )
        return completions[0]

    async def aclose(self) -> None:
        await self.user.aclose()


def _affinity(profile: UserProfile, turns: Sequence[Turn]) -> str:
    """Routing key: equal for the prefixes of one conversation, whose prompts share their beginning."""
    goal = profile.goal.model_dump_json() if profile.goal else ""
    return hashlib.sha256((goal or "".join(turn.text for turn in turns[:1])).encode()).hexdigest()[:16]
