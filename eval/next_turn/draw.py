"""Next turns drawn from any simulator at prefixes of real conversations, kept in a journal.

A simulator is named by a specification, `NAME=KIND:ARGUMENT[;prompt=PROMPT]`:

    userlm:MODEL                    a User LM in this process (folder, run directory or userlm-135m)
    userlm:MODEL@http://ENGINE      the same behind a vLLM server
    endpoint:URL[#MODEL]            `usersim serve`
    chat:URL[#MODEL]                any OpenAI-compatible endpoint, prompted to play the user
    chat:MODEL                      a chat model in this process, prompted to play the user
    base:MODEL[@http://ENGINE]      a chat model that continues the conversation unprompted
    nearest:TRAIN.jsonl             the turn that followed the nearest context of these conversations
    policy:POLICY+KIND:ARGUMENT     any of the above under a policy of `usersim.policies`
    file:TURNS.jsonl                precomputed turns

All simulators are drawn from with the same sampling and the same guards. Where a simulator tells P(end), its words and
its decision to leave are drawn apart. P(end) is read at the first token (temperature 1, before top_p). The words are
drawn with the end banned. The decision is a Bernoulli draw from P(end) with a seed of its own. That is the sampled
distribution, factored: every prefix has words, and leaving can be judged by P(end). Other simulators leave as they do,
and then have no words there.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from eval.estimates import rng_for
from eval.model.drawing import Ask, Batch, DrawJournal, draw
from eval.next_turn.goal_conditions import CONDITIONS, read_unsaid, under_condition
from eval.next_turn.prefixes import Prefix, prefixes_of, stratified, usable
from eval.next_turn.turns import NextTurn, SimulatedTurns, read_turns, write_turns
from usersim.cli import console, load_conversations, run_main
from usersim.errors import BackendError, ConfigError, ContextOverflowError, EmptyReplyError, GuardError
from usersim.guards import Guards, rejection
from usersim.policies import policy_from, with_policy
from usersim.prompted import BY_NAME, PromptedUser, prompt_hash
from usersim.sampling import EndPolicy, Sampling, User
from usersim.types import Record, Turn, UserProfile, UserTurn

if TYPE_CHECKING:
    from usersim.client import RemoteUser
    from usersim.userlm import UserLM

KINDS = ("userlm", "endpoint", "chat", "base", "nearest", "policy", "file")
TELLS_END = ("userlm", "endpoint", "base", "nearest")
"""Kinds whose turns carry a P(end)."""
PROMPT = "impersonal"
"""Default prompt: the likeliest on dev for the 135M base, of two of the three corpora (docs/results)."""
SHORTENED = "history_shortened"
"""Noted among a turn's rejections where the oldest exchanges did not fit into the window."""
ADDRESSES = ("http://", "https://", "unix:")
FAILURES_IN_A_ROW = 50
"""After so many a simulator is taken to be down, and the rest is not asked."""
Track = Callable[[str, int], Callable[[], None]]

log = logging.getLogger(__name__)


class DrawSettings(Record):
    """Sampling and guards, the same for all simulators of a comparison."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=192, ge=1, le=4096)
    guards: Literal["off", "on"] = "off"
    """off: only a turn without words is drawn again, so that what guards would catch is seen. on: the default ones."""
    seed: int = 0

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens)

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


@dataclass(frozen=True)
class Simulator:
    """A simulator that can be drawn from. Nothing is loaded before the first turn that the journal lacks."""

    name: str
    kind: str
    source: str
    """What stands behind it: a model, an address, a file."""
    identity: dict[str, str]
    """Everything that its turns depend on: weights, prompt, sampling, guards, seed."""
    tells_end: bool
    """Its turns carry a P(end)."""
    open: Callable[[], User]
    settings: DrawSettings


def simulator_from(specification: str, settings: DrawSettings | None = None) -> Simulator | SimulatedTurns:
    """The simulator of a specification; for `file:` its turns.

    Raises:
        ConfigError: The specification or what it names cannot be used.
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
    identity = {"name": name, **simulator.identity, **_shown(settings)}
    return replace(simulator, identity=identity)


def draw_turns(
    simulator: Simulator | SimulatedTurns,
    prefixes: Sequence[Prefix],
    out: Path,
    *,
    concurrency: int = 48,
    track: Track | None = None,
) -> SimulatedTurns:
    """Draws a next turn at every prefix, once; a second run goes on where the first one stopped.

    The goal shown is the prefix's own (`eval.next_turn.goal_conditions` changes it). A turn depends on its prefix and
    the seed, not on what else is drawn. The prefixes of one conversation follow each other, so that an engine's
    prefix cache serves them.

    Args:
        simulator: What `simulator_from` returned; precomputed turns come back as they are.
        prefixes: Prefixes, closing ones among them.
        out: Directory of the journals.
        concurrency: Requests under way at a time.
        track: `track(description, total)` returns a function that is called after every prefix.

    Returns:
        The turns. A prefix at which the simulator failed has none; failures are counted by error and tried again
        by the next run.

    Raises:
        BackendError: Every prefix failed, or so many in a row that the simulator must be down.
        DataError: The journal in `out` belongs to other weights, settings or seed.
    """
    if isinstance(simulator, SimulatedTurns):
        return simulator
    asks = {prefix.id: _ask(prefix, simulator.settings.seed) for prefix in _in_order(prefixes)}
    journal = DrawJournal(_journal_path(out, simulator.name), simulator.identity)
    user = _PrefixUser(simulator)
    done = track(simulator.name, len(asks)) if track else None
    batch = asyncio.run(_draw_all(user, list(asks.values()), journal, concurrency, done))
    if batch.failed and (user.is_down or not batch.turns):
        state = "stopped answering" if batch.turns else "failed at every prefix"
        raise BackendError(f"{simulator.name}: {state} ({user.first_error}); run again to go on")
    return _simulated(simulator, prefixes, asks, batch)


async def _draw_all(
    user: _PrefixUser,
    asks: Sequence[Ask],
    journal: DrawJournal,
    concurrency: int,
    done: Callable[[], None] | None,
) -> Batch:
    try:
        return await draw(user, asks, journal, seed=0, concurrency=concurrency, done=done)
    finally:
        await user.aclose()


def _simulated(
    simulator: Simulator, prefixes: Sequence[Prefix], asks: dict[str, Ask], batch: Batch
) -> SimulatedTurns:
    turns = {
        prefix.id: next_turn(prefix, batch.turns[asks[prefix.id].key], simulator)
        for prefix in prefixes
        if asks[prefix.id].key in batch.turns
    }
    redrawn = Counter(reason for turn in batch.turns.values() for reason in turn.rejected)
    parts = [f"{simulator.kind}:{simulator.source}", simulator.settings.described()]
    parts.append("P(end) read, words drawn with the end banned" if simulator.tells_end else "leaves as drawn")
    parts += [f"{reason.replace('_', ' ')}: {count}" for reason, count in sorted(redrawn.items())]
    return SimulatedTurns(simulator.name, turns, dict(batch.failed), "; ".join(parts))


def next_turn(prefix: Prefix, turn: UserTurn, simulator: Simulator) -> NextTurn:
    """A drawn turn as the evaluation reads it, with the decision to leave drawn from P(end) where that is known.

    Before the first user turn nothing can be left.
    """
    probability = turn.end_probability if simulator.tells_end else None
    ends = turn.ends
    if probability is not None and not turn.ends and prefix.position > 1:
        ends = bool(rng_for(simulator.settings.seed, f"end {prefix.id}").random() < probability)
    return NextTurn(prefix=prefix.id, text=turn.text or None, ends=ends, end_probability=probability)


# -- asks ------------------------------------------------------------------------------------------


def _ask(prefix: Prefix, seed: int) -> Ask:
    """Its key has a digest of all that the simulator sees, so that a journal outlives changed goals or texts."""
    profile = UserProfile(goal=prefix.goal)
    seen = profile.model_dump_json() + "".join(turn.model_dump_json() for turn in prefix.history)
    key = f"{prefix.id} {hashlib.sha256(seen.encode()).hexdigest()[:16]}"
    return Ask(key, profile, prefix.history, seed=zlib.crc32(f"{seed} {prefix.id}".encode()))


def _in_order(prefixes: Sequence[Prefix]) -> list[Prefix]:
    """By conversation, as they come first, and by position within it."""
    place: dict[str, int] = {}
    for prefix in prefixes:
        place.setdefault(prefix.conversation, len(place))
    return sorted(prefixes, key=lambda prefix: (place[prefix.conversation], prefix.position))


def _journal_path(out: Path, name: str) -> Path:
    slug = "".join(character if character.isalnum() or character in "-_." else "-" for character in name)
    return out / "drawn" / f"{slug}.jsonl"


class _PrefixUser:
    """A `User` that redraws what the guards refuse, shortens histories that are too long and stops when it is down."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator, self._user = simulator, None
        guards = simulator.settings.guard_rules
        # A User LM applies its guards itself, without another prefill.
        own = simulator.kind == "userlm"
        self._guards = Guards.off() if own else guards
        self._failures = 0
        self.first_error: str | None = None

    @property
    def is_down(self) -> bool:
        return self._failures >= FAILURES_IN_A_ROW

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        if self.is_down:
            raise BackendError("not asked: the simulator is down")
        try:
            turn = await self._shortening(profile, turns, seed)
        except (BackendError, GuardError, ContextOverflowError) as error:
            if self.first_error is None:
                log.warning("%s: %s", self._simulator.name, error)
                self.first_error = str(error)
            # Only an engine that does not answer says something about the next prefix.
            self._failures += isinstance(error, BackendError) and not isinstance(error, EmptyReplyError)
            raise
        self._failures = 0
        return turn

    async def _shortening(self, profile: UserProfile, turns: Sequence[Turn], seed: int | None) -> UserTurn:
        shown = list(turns)
        while True:
            try:
                turn = await self._guarded(profile, shown, seed)
            except (ContextOverflowError, BackendError) as error:
                if len(shown) < 4 or not _is_overflow(error):
                    raise
                shown = shown[2:]
                continue
            if len(shown) < len(turns):
                turn = turn.model_copy(update={"rejected": (*turn.rejected, SHORTENED)})
            return turn

    async def _guarded(self, profile: UserProfile, turns: Sequence[Turn], seed: int | None) -> UserTurn:
        reasons: list[str] = []
        user = self._opened()
        for attempt in range(self._guards.attempts):
            own = None if seed is None else seed + attempt * 1_000_003
            try:
                turn = await user(profile, turns, seed=own)
            except EmptyReplyError:
                if self._guards.attempts == 1:
                    raise
                reasons.append("empty")
                continue
            why = None if turn.ends else rejection(turn.text, profile.goal, turns, self._guards)
            if why is None:
                return turn.model_copy(update={"rejected": (*turn.rejected, *reasons)})
            reasons.append(why)
        counted = Counter(reasons)
        raise GuardError(f"no acceptable turn in {self._guards.attempts} attempts", reasons=dict(counted))

    def _opened(self) -> User:
        if self._user is None:
            self._user = self._simulator.open()
        return self._user

    async def aclose(self) -> None:
        close = getattr(self._user, "aclose", None)
        if close is not None:
            await close()


def _is_overflow(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, ContextOverflowError) or ("http 400" in words and "context length" in words)


class _EndBanned:
    """A `User` whose words are drawn with the end banned, over a `UserLM` or the endpoint's client."""

    def __init__(self, user: UserLM | RemoteUser, sampling: Sampling) -> None:
        self.user, self.sampling, self.name = user, sampling, user.name

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        drawn = await self.user.sample(
            profile,
            turns,
            seed=seed,
            sampling=self.sampling,
            end=EndPolicy(mode="never"),
            affinity=_affinity(profile, turns),
        )
        return drawn[0]

    async def aclose(self) -> None:
        await self.user.aclose()


def _affinity(profile: UserProfile, turns: Sequence[Turn]) -> str:
    """Equal for the prefixes of one conversation, which share the beginning of their prompts."""
    goal = profile.goal.model_dump_json() if profile.goal else ""
    return hashlib.sha256((goal or "".join(turn.text for turn in turns[:1])).encode()).hexdigest()[:16]


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


def _shown(settings: DrawSettings) -> dict[str, str]:
    shown = {key: str(value) for key, value in settings.model_dump().items()}
    return {**shown, "guards": settings.guard_rules.model_dump_json()}


def at_engine(argument: str) -> tuple[str, str | None]:
    """(model, address of the engine that serves it or None) of `MODEL@ADDRESS`."""
    model, at, address = argument.rpartition("@")
    if at and address.startswith(ADDRESSES):
        return model, address
    return argument, None


def _userlm(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    from eval.model.scored import weights_hash
    from usersim.model import resolve
    from usersim.render import Renderer

    model, engine = at_engine(source)
    path = resolve(model)
    renderer = Renderer.from_pretrained(path)

    def open_user() -> User:
        from usersim.userlm import UserLM

        sampler = _sampler(path, engine)
        user = UserLM(renderer, sampler, sampling=settings.sampling, guards=settings.guard_rules, name=name)
        return _EndBanned(user, settings.sampling)

    identity = {"weights": weights_hash(path), "render": renderer.fingerprint}
    return Simulator(name, "userlm", model, identity, True, open_user, settings)


def _endpoint(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    from usersim.api import connect

    url, _, model = source.partition("#")
    _check_address(url, name)
    identity = {"url": url, "model": model}

    def open_user() -> User:
        return _EndBanned(connect(url, **({"model": model} if model else {})), settings.sampling)

    return Simulator(name, "endpoint", source, identity, True, open_user, settings)


def _chat(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    prompt = BY_NAME[options.get("prompt", PROMPT)]
    sampling = settings.sampling.model_dump(include={"temperature", "top_p", "max_tokens"})
    url, _, model = source.partition("#")
    identity = {"prompt": prompt_hash(prompt)}
    if not source.startswith(ADDRESSES):
        from eval.model.scored import weights_hash
        from usersim.model import resolve

        path = resolve(source)
        identity["weights"] = weights_hash(path)
    else:
        identity |= {"url": "", "model": model} if model else {"url": url, "model": ""}

    def open_user() -> User:
        from usersim.backends.chat import ChatSettings, HttpChat

        chosen = ChatSettings(**sampling)
        chat: Any
        if source.startswith(ADDRESSES):
            key = os.environ.get("OPENAI_API_KEY")
            chat = HttpChat(url, model=model or None, api_key=key, settings=chosen)
        else:
            from usersim.backends.local_chat import LocalChat

            chat = LocalChat.from_pretrained(path, settings=chosen)
        return PromptedUser(chat, name=name, prompt=prompt)

    shown = f"{source}, prompt {options.get('prompt', PROMPT)}"
    return Simulator(name, "chat", shown, identity, False, open_user, settings)


def _base(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    from eval.model.scored import weights_hash
    from usersim.model import resolve

    model, engine = at_engine(source)
    path = resolve(model)

    def open_user() -> User:
        from eval.next_turn.baselines import UnpromptedUser

        return UnpromptedUser.from_pretrained(path, _sampler(path, engine), settings.sampling)

    return Simulator(name, "base", model, {"weights": weights_hash(path)}, True, open_user, settings)


def _nearest(name: str, source: str, options: Options, settings: DrawSettings) -> Simulator:
    from usersim.model import file_hash

    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of training conversations")

    def open_user() -> User:
        from eval.next_turn.baselines import NearestUser
        from usersim.records import read_conversations

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
        from usersim.backends.http import HttpSampler

        return HttpSampler(engine)
    from usersim.backends.local import LocalSampler

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


# -- command ---------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("human", type=Path, help="held-out human conversations (JSON Lines)")
    parser.add_argument(
        "--simulator",
        action="append",
        required=True,
        metavar="NAME=KIND:ARGUMENT",
        help="see above; repeatable",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for journals and turns")
    parser.add_argument(
        "--goals", choices=CONDITIONS, default="own", help="goal that simulators are shown (own)"
    )
    parser.add_argument(
        "--unsaid",
        type=Path,
        metavar="FILE",
        help="annotations (JSON Lines) with facets that people never said",
    )
    parser.add_argument("--limit", type=int, default=200, help="conversations, sources in equal parts (200)")
    parser.add_argument("--language", default="en", help="language of the user turns; `any` for all (en)")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-tokens", type=int, default=192, help="tokens of a turn (192)")
    parser.add_argument("--guards", choices=["off", "on"], default="off")
    parser.add_argument("--concurrency", type=int, default=48, help="requests under way at a time (48)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    settings = DrawSettings(
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        guards=args.guards,
        seed=args.seed,
    )
    simulators = [simulator_from(specification, settings) for specification in args.simulator]
    conversations, excluded = usable(
        load_conversations(args.human), None if args.language == "any" else args.language
    )
    chosen = stratified(conversations, args.limit, args.seed)
    prefixes = [prefix for conversation in chosen for prefix in prefixes_of(conversation)]
    unsaid = read_unsaid(args.unsaid) if args.unsaid else None
    prefixes = under_condition(prefixes, args.goals, unsaid=unsaid, seed=args.seed)
    left_out = "".join(f"; left out: {count} {reason}" for reason, count in excluded.items())
    console.print(f"{len(chosen)} conversations, {len(prefixes)} prefixes{left_out}")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:

        def track(name: str, total: int) -> Callable[[], None]:
            task = bar.add_task(name, total=total)
            return lambda: bar.advance(task)

        drawn = [
            draw_turns(simulator, prefixes, args.out, concurrency=args.concurrency, track=track)
            for simulator in simulators
        ]
    for turns in drawn:
        write_turns(
            args.out / f"{_journal_path(args.out, turns.name).stem}.turns.jsonl", turns.turns.values()
        )
        failed = "".join(f"; {count} failed ({error})" for error, count in turns.failed.items())
        console.print(f"{turns.name}: {len(turns.turns)} turns{failed}; {turns.note}")
    return 0


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m eval.next_turn.draw",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(run_main(main))
