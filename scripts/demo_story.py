"""Content of `make demo`: choice of the goal, openings, conversation and comparison.

All tunable values are constants here, fixed before any result was seen. The seed is 0 everywhere.
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
"""Number of openings per simulated user, with seeds 0, 1, 2; all are shown."""
NEIGHBOURS = DRAWS - 1
LEAST_FACETS, MOST_FACETS = 2, 4
MOST_WORDS = 40
"""Maximum words of an opening, so that it fits a terminal."""
TURNS = 4
"""Maximum user turns after the opening."""
ASSISTANT_TOKENS = 64
PROMPTED_TOKENS = 96
"""Maximum tokens of the prompted user, as in docs/results."""
SAMPLING = Sampling()
"""Sampling parameters of both simulated users, the endpoint's default."""
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
"""Reply with as many tokens as `HELPS`, so that token costs are equal."""

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Neighbour:
    """Person with a similar goal."""

    conversation: Conversation
    similarity: float
    """Cosine similarity of the goals' embeddings."""


@dataclass(frozen=True)
class ReplyComparison:
    """Comparison of two candidate replies over paired futures."""

    result: ContextMR
    differences: tuple[float, ...]
    """Reward of the first candidate minus that of the second, by future that both have."""
    requested: int

    @property
    def mean(self) -> float | None:
        return fmean(self.differences) if self.differences else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return interval(self.differences)

    def verdict(self) -> str:
        """Returns the conclusion from the interval."""
        bounds, n = self.interval, len(self.differences)
        if bounds is None:
            return f"{n} of {self.requested} pairs of futures succeeded: too few for an interval."
        low, high = bounds
        if low <= 0 <= high:
            return f"The interval includes zero: {n} futures cannot tell the two apart."
        better = "helps" if low > 0 else "dodges"
        return f"The interval excludes zero: with this user, the reply that {better} is worth more."


@dataclass
class RecordingUser:
    """User wrapper that records its turns: (number of user turns before, turn)."""

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
        sampled: list[UserTurn] = await self.user.sample(profile, turns, n=n, seed=seed, affinity=affinity)
        before = sum(turn.role == "user" for turn in turns)
        self.turns += [(before, one) for one in sampled]
        return sampled

    def words(self) -> list[int]:
        """Returns the number of words of every turn with text."""
        return [len(turn.text.split()) for _, turn in self.turns if not turn.ends]

    def end_probabilities(self) -> dict[int, list[float]]:
        """Returns P(end) by number of user turns before, where the end is allowed."""
        out: dict[int, list[float]] = {}
        for before, turn in self.turns:
            if before >= EndPolicy().min_user_turns:
                out.setdefault(before, []).append(turn.end_probability)
        return dict(sorted(out.items()))


def opening(person: Conversation) -> str:
    return person.turns[0].text


def words(text: str) -> int:
    return len(text.split())


def refusals(turn: UserTurn) -> str:
    """Returns a note on attempts that the guards rejected before this one; empty for a first attempt."""
    reasons = ", ".join(sorted(set(turn.rejected)))
    return f"attempt {len(turn.rejected) + 1}, after {reasons}" if turn.rejected else ""


def _shows(person: Conversation) -> bool:
    persona, goal = person.profile.persona, person.profile.goal
    english = persona is None or persona.language == "en"
    return goal is not None and english and 1 <= words(opening(person)) <= MOST_WORDS


def choose(people: Sequence[Conversation]) -> Conversation:
    """Returns the person whose goal is shown, by `RULE`. Raises DataError if no person fits it."""
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
    """Returns people with the most similar goals and another opening, nearest first."""
    own_opening = opening(chosen).lower()
    others = [p for p in people if p.id != chosen.id and _shows(p) and opening(p).lower() != own_opening]
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
    """Returns the profile for simulated users: the goal, without the person's style."""
    return UserProfile(goal=person.profile.goal)


async def openings(user: User, profile: UserProfile) -> list[UserTurn | None]:
    """Samples one opening per seed; None if every attempt was rejected or empty."""

    async def one(seed: int) -> UserTurn | None:
        try:
            return await user(profile, [], seed=seed)
        except (GuardError, EmptyReplyError):
            return None

    return list(await asyncio.gather(*(one(SEED + draw) for draw in range(DRAWS))))


def first_opening(candidates: Sequence[UserTurn | None]) -> UserTurn:
    """Returns the opening to continue from, with the lowest seed. Raises DataError without one."""
    for turn in candidates:
        if turn is not None and turn.text:
            return turn
    raise DataError("the User LM gave no opening: its guards refused every attempt")


async def conversation(
    user: User, assistant: Assistant, profile: UserProfile, opening_turn: UserTurn, watch: Watcher
) -> Conversation:
    """Continues from the opening until the user leaves, or for `TURNS` more turns."""

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
        turns=[Turn(role="user", text=opening_turn.text)],
        max_user_turns=TURNS,
        seed=SEED,
        id="demo",
        watch=watch,
    )


async def compare(
    user: User, assistant: Assistant, profile: UserProfile, opening_turn: UserTurn, done: Done
) -> ReplyComparison:
    """Computes the multiturn-aware rewards of the two replies; future j of both has the same seeds."""
    history = (Turn(role="user", text=opening_turn.text),)
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
    return ReplyComparison(rewarded.result, differences, FUTURES)
