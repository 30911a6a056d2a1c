"""`Sampler` (token ids → token ids) under `UserLM` (profile and turns → `UserTurn`), with guards between them."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field

from usersim.errors import GuardError
from usersim.guards import Guards, rejection
from usersim.render import Renderer
from usersim.types import Goal, Persona, Record, Turn, UserProfile, UserTurn


class Sampling(Record):
    """How tokens are drawn."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=192, ge=1, le=4096)


class EndPolicy(Record):
    """When a sampled end of conversation counts."""

    mode: Literal["sample", "never", "threshold", "greedy"] = "sample"
    """sample: as drawn. never: the end is banned. threshold: ends when P(end) ≥ threshold.
    greedy: ends when the end is the most likely first token. In the last two P(end) alone decides, and the words
    are drawn with the end banned."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    min_user_turns: int = Field(default=1, ge=0)
    """The end is banned until the history holds this many user turns."""


@dataclass(frozen=True)
class Draw:
    """What a `Sampler` is asked for: `n` continuations of one prompt, the i-th of them from `seed + i`."""

    prompt_ids: Sequence[int]
    stop_ids: Sequence[int]
    watch_id: int
    """Whose probability at the first position is wanted."""
    sampling: Sampling
    n: int = 1
    seed: int | None = None
    ban_ids: Sequence[int] = ()
    affinity: str | None = None
    """Prompts with the same one share beginnings: where several engines serve, the same one should."""


@dataclass(frozen=True)
class Sampled:
    """One continuation: `token_ids` include the stop token that ended it, `logprobs` are raw (temperature 1)."""

    token_ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
    end_probability: float
    """P(`watch_id`) at the first position, raw."""
    end_is_likeliest: bool


class Sampler(Protocol):
    """Implemented by `backends.local` and `backends.http`; both draw sample i of n from seed + i."""

    async def sample(self, asked: Draw) -> list[Sampled]: ...

    async def aclose(self) -> None: ...


class User(Protocol):
    """Whoever plays the human: a `UserLM`, the endpoint's client, a prompted model, a script."""

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn: ...


class UserLM:
    """A trained user model over any `Sampler`. `rejections` counts what the guards threw away, by reason."""

    def __init__(
        self,
        renderer: Renderer,
        sampler: Sampler,
        *,
        sampling: Sampling | None = None,
        end: EndPolicy | None = None,
        guards: Guards | None = None,
        name: str = "userlm",
    ) -> None:
        self.renderer, self.sampler, self.name = renderer, sampler, name
        self.sampling = sampling or Sampling()
        self.end = end or EndPolicy()
        self.guards = guards or Guards()
        self.rejections: Counter[str] = Counter()

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
        sampling: Sampling | None = None,
        end: EndPolicy | None = None,
    ) -> list[UserTurn]:
        """`n` independent next turns, in order of their seeds (`seed + i`); one prefill for all of them.

        The same seed gives the same turn on the local backend. With vLLM a turn also depends, through rounding,
        on what else is in the engine's batch. Raises RenderError (history), BackendError (engine), GuardError
        (every attempt at one rejected).
        """
        sampling, end = sampling or self.sampling, end or self.end
        whole = self.guards.max_words is not None and sampling.max_tokens >= self.sampling.max_tokens
        prompt = self.renderer.prompt(profile, turns)
        room = self.renderer.settings.context_tokens - len(prompt)
        sampling = sampling.model_copy(update={"max_tokens": min(sampling.max_tokens, room)})
        accepted: dict[int, UserTurn] = {}
        cut: dict[int, UserTurn] = {}
        rejected: dict[int, list[str]] = {index: [] for index in range(n)}
        attempts = self.guards.attempts if sampling.temperature else 1  # greedy: another would be the same
        for attempt in range(attempts):
            missing = [index for index in range(n) if index not in accepted]
            if not missing:
                break
            # Fresh seeds for every attempt, and the same ones whenever the call is repeated.
            base = None if seed is None else seed + attempt * 1_000_003
            drawn = await self._draw(prompt, len(missing), base, sampling, end, turns)
            for index, sampled in zip(missing, drawn, strict=True):
                said = self._read(sampled, end, turns, None if base is None else base + missing.index(index))
                why = None if said.ends else rejection(said.text, profile.goal, turns, self.guards)
                if why is None and not (whole and said.finish == "length"):
                    accepted[index] = said
                    continue
                rejected[index].append(why or "cut")
                if why is None:
                    cut.setdefault(index, said)
        for index in cut.keys() - accepted.keys():
            accepted[index] = cut[index]
            rejected[index].remove("cut")
        self.rejections.update(why for reasons in rejected.values() for why in reasons)
        if len(accepted) < n:
            raise _exhausted(rejected, accepted, attempts)
        return [
            accepted[index].model_copy(
                update={"rejected": tuple(rejected[index]), "prompt_tokens": len(prompt)}
            )
            for index in range(n)
        ]

    async def _draw(
        self,
        prompt: list[int],
        n: int,
        seed: int | None,
        sampling: Sampling,
        end: EndPolicy,
        turns: Sequence[Turn],
    ) -> list[Sampled]:
        settings = self.renderer.settings
        # Threshold and greedy read P(end) from the same call, which is raw: a ban does not touch it.
        banned = end.mode != "sample" or not _may_end(end, turns)
        return await self.sampler.sample(
            Draw(
                prompt,
                self.renderer.stop_ids,
                settings.end_of_conversation_id,
                sampling,
                n=n,
                seed=seed,
                ban_ids=[settings.end_of_conversation_id] if banned else [],
            )
        )

    def _read(self, sampled: Sampled, end: EndPolicy, turns: Sequence[Turn], seed: int | None) -> UserTurn:
        text, ends = self.renderer.read(sampled.token_ids)
        logprob = sum(sampled.logprobs)
        if _may_end(end, turns) and end.mode in ("threshold", "greedy"):
            ends = (
                sampled.end_probability >= end.threshold
                if end.mode == "threshold"
                else sampled.end_is_likeliest
            )
            if ends:  # the words drawn beside are not what was said
                logprob = math.log(max(sampled.end_probability, sys.float_info.min))
        return UserTurn(
            text="" if ends else text,
            ends=ends,
            end_probability=min(1.0, max(0.0, sampled.end_probability)),
            finish="end" if ends else sampled.finish,
            logprob=logprob,
            tokens=len(sampled.token_ids),
            seed=seed,
        )

    async def aclose(self) -> None:
        await self.sampler.aclose()


def _exhausted(rejected: dict[int, list[str]], accepted: dict[int, UserTurn], attempts: int) -> GuardError:
    reasons = Counter(why for index, whys in rejected.items() if index not in accepted for why in whys)
    listed = ", ".join(f"{why} {count}" for why, count in reasons.most_common())
    return GuardError(
        f"no acceptable user turn in {attempts} attempts ({listed}); "
        "loosen the guards, raise the temperature or give a richer goal",
        reasons=dict(reasons),
    )


def _may_end(end: EndPolicy, turns: Sequence[Turn]) -> bool:
    spoken = sum(turn.role == "user" for turn in turns)
    return end.mode != "never" and spoken >= end.min_user_turns


def as_profile(goal: str | Goal | None = None, persona: str | Persona | None = None) -> UserProfile:
    """Strings or full objects alike, as everywhere in the public interface."""
    if isinstance(goal, str):
        goal = Goal(summary=goal) if goal.strip() else None
    if isinstance(persona, str):
        persona = Persona(description=persona.strip()) if persona.strip() else None
    return UserProfile(goal=goal, persona=persona)
