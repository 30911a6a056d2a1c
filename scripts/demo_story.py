"""The story of `make demo`, apart from processes and pixels: which goal, whose openings, what is compared.

Everything that could be tuned is a constant here, fixed before any outcome was seen; seed 0 everywhere.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from collab_train import rewards
from collab_train.contexts import Context
from collab_train.rollout.accounting.results import ContextMR, interval
from collab_train.rollout.engines.patience import retry
from collab_train.rollout.simulation.futures import one_reply, one_turn
from collab_train.rollout.simulation.rollout import Done, Rollout, RolloutConfig
from usersim.errors import DataError, EmptyReplyError, GuardError
from usersim.types import Conversation, Turn, UserProfile, UserTurn
from usersim.users.dialogue import Assistant, Watcher, converse
from usersim.users.protocols import EndPolicy, Sampling, User

SEED = 0
DRAWS = 3
"""Openings of each simulated user, from seeds 0, 1, 2; all are shown."""
NEIGHBOURS = DRAWS - 1
LEAST_FACETS, MOST_FACETS = 2, 4
MOST_WORDS = 40
"""Of an opening that a terminal can show."""
TURNS = 4
"""User turns after the opening, at most."""
ASSISTANT_TOKENS = 64
PROMPTED_TOKENS = 96
"""As in docs/results."""
SAMPLING = Sampling()
"""How both simulated users draw; the endpoint's default."""
WINDOW, FUTURES = 2, 8
RULE = (
    f"Drawn with seed {SEED} from the held-out (test) ShareGPT people whose goal is in English, has {LEAST_FACETS} to "
    f"{MOST_FACETS} facets, and who opened with at most {MOST_WORDS} words. Nothing is picked by hand."
)
HELPS = "Happy to help with that! To make it fit you: what matters most to you here, and what should it have or avoid?"
DODGES = (
    "Thanks for writing to me! Did you know, by the way, that octopuses have three hearts, blue blood and arms "
    "that taste?"
)
"""As long as `HELPS` in tokens, so that the price of reading does not part them."""

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Neighbour:
    """A person with a like goal."""

    conversation: Conversation
    similarity: float
    """Cosine of the goals' embeddings."""


@dataclass(frozen=True)
class Comparison:
    """Two candidates over the same futures."""

    result: ContextMR
    differences: tuple[float, ...]
    """R of the first candidate less R of the second, by future that both have."""
    asked: int

    @property
    def mean(self) -> float | None:
        return fmean(self.differences) if self.differences else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return interval(self.differences)

    def verdict(self) -> str:
        """What the interval says, and no more."""
        bounds, n = self.interval, len(self.differences)
        if bounds is None:
            return f"{n} of {self.asked} pairs of futures came about: too few for an interval."
        low, high = bounds
        if low <= 0 <= high:
            return f"The interval includes zero: {n} futures cannot tell the two apart."
        better = "helps" if low > 0 else "dodges"
        return f"The interval excludes zero: with this user, the reply that {better} is worth more."


@dataclass
class Listening:
    """A `User` that remembers what it said: (user turns before, turn)."""

    user: Any
    turns: list[tuple[int, UserTurn]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(getattr(self.user, "name", "userlm"))

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        return (await self.sample(profile, turns, seed=seed))[0]

    async def sample(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        *,
        n: int = 1,
        seed: int | None = None,
        affinity: str | None = None,
    ) -> list[UserTurn]:
        said: list[UserTurn] = await self.user.sample(profile, turns, n=n, seed=seed, affinity=affinity)
        before = sum(turn.role == "user" for turn in turns)
        self.turns += [(before, one) for one in said]
        return said

    def words(self) -> list[int]:
        """Of every turn with words."""
        return [len(said.text.split()) for _, said in self.turns if not said.ends]

    def end_probabilities(self) -> dict[int, list[float]]:
        """By the number of user turns before; those where the end is allowed."""
        out: dict[int, list[float]] = {}
        for before, said in self.turns:
            if before >= EndPolicy().min_user_turns:
                out.setdefault(before, []).append(said.end_probability)
        return dict(sorted(out.items()))


def opening(person: Conversation) -> str:
    return person.turns[0].text


def words(text: str) -> int:
    return len(text.split())


def refusals(turn: UserTurn) -> str:
    """How many attempts the guards threw away before this one, and why; empty for a first attempt."""
    reasons = ", ".join(sorted(set(turn.rejected)))
    return f"attempt {len(turn.rejected) + 1}, after {reasons}" if turn.rejected else ""


def _shows(person: Conversation) -> bool:
    persona, goal = person.profile.persona, person.profile.goal
    english = persona is None or persona.language == "en"
    return goal is not None and english and 1 <= words(opening(person)) <= MOST_WORDS


def choose(people: Sequence[Conversation]) -> Conversation:
    """The person whose goal the story is about, by `RULE`. Raises DataError where no person fits it."""
    eligible = [
        person
        for person in people
        if _shows(person)
        and person.profile.goal is not None
        and LEAST_FACETS <= len(person.profile.goal.facets) <= MOST_FACETS
    ]
    if not eligible:
        raise DataError(f"no person fits the demo's rule ({len(people)} with a goal were read)")
    return random.Random(SEED).choice(eligible)


def neighbours(chosen: Conversation, people: Sequence[Conversation], embed: Embed) -> list[Neighbour]:
    """The people with the most similar goals, nearest first; other conversations with other openings."""
    seen = opening(chosen).lower()
    others = [p for p in people if p.id != chosen.id and _shows(p) and opening(p).lower() != seen]
    if not others:
        return []
    vectors = embed([_wish(person) for person in [chosen, *others]])
    cosines = vectors[1:] @ vectors[0]
    nearest = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
    return [Neighbour(others[index], float(cosines[index])) for index in nearest]


def _wish(person: Conversation) -> str:
    goal = person.profile.goal
    return "" if goal is None else "; ".join([goal.summary, *(facet.text for facet in goal.facets)])


def profile_of(person: Conversation) -> UserProfile:
    """What a simulated user is told: the goal, and nothing of how the person writes."""
    return UserProfile(goal=person.profile.goal)


async def openings(user: User, profile: UserProfile) -> list[UserTurn | None]:
    """One from each seed; None where every attempt was refused or empty."""

    async def one(seed: int) -> UserTurn | None:
        try:
            return await user(profile, [], seed=seed)
        except (GuardError, EmptyReplyError):
            return None

    return list(await asyncio.gather(*(one(SEED + draw) for draw in range(DRAWS))))


def first_opening(drawn: Sequence[UserTurn | None]) -> UserTurn:
    """The one the conversation goes on from: that of the lowest seed. Raises DataError where there is none."""
    for said in drawn:
        if said is not None and said.text:
            return said
    raise DataError("the User LM gave no opening: its guards refused every attempt")


async def conversation(
    user: User, assistant: Assistant, profile: UserProfile, said: UserTurn, watch: Watcher
) -> Conversation:
    """Goes on from the opening until the user leaves, or `TURNS` further turns."""

    async def speak(profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None) -> UserTurn:
        return await retry(
            lambda shift: one_turn(user, profile, turns, (seed or 0) + shift, "demo"), retries=2
        )

    async def reply(turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None) -> str:
        return await retry(
            lambda shift: one_reply(assistant, turns, system=system, seed=(seed or 0) + shift), retries=2
        )

    return await converse(
        speak,
        reply,
        profile,
        turns=[Turn(role="user", text=said.text)],
        max_user_turns=TURNS,
        seed=SEED,
        id="demo",
        watch=watch,
    )


async def compare(
    user: User, assistant: Assistant, profile: UserProfile, said: UserTurn, done: Done
) -> Comparison:
    """The multiturn-aware rewards of the two replies; future j of both draws from the same seeds."""
    history = (Turn(role="user", text=said.text),)
    context = Context(id="demo", turns=history, profile=profile, candidates=(HELPS, DODGES))
    config = RolloutConfig(w=WINDOW, n=FUTURES, seed=SEED, retries=2)
    rewarded = await Rollout(user, assistant, config, done=done).reward(context)
    scored: dict[tuple[int, int], float] = {}
    for future in rewarded.futures:
        if future.conversation is not None:
            episode = rewards.Episode(context, future.conversation)
            total, _ = await rewards.score(episode, config.weights, config)
            scored[future.candidate, future.index] = total
    pairs = [index for index in range(FUTURES) if {(0, index), (1, index)} <= scored.keys()]
    differences = tuple(scored[0, index] - scored[1, index] for index in pairs)
    return Comparison(rewarded.result, differences, FUTURES)
