"""`Sampler` (token ids → token ids) under `UserLM` (profile and turns → `UserTurn`), with guards between them."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from pydantic import Field

from usersim.errors import GuardError
from usersim.guards import Guards, rejection
from usersim.render import Renderer
from usersim.token_text import DetailedTurn, TextStream, TokenLogprob, trace
from usersim.types import Goal, Persona, Record, Turn, UserProfile, UserTurn


class Sampling(Record):
    """How tokens are drawn: temperature, then top_k, then top_p, as in vLLM."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    """0: off."""
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
    top_logprobs: int = 0
    """How many of the likeliest tokens are wanted beside each sampled one."""
    rank_watched: bool = False
    """`end_is_likeliest` is wanted, which may cost one more call to the engine."""


@dataclass(frozen=True)
class Sampled:
    """One continuation: `token_ids` include the stop token that ended it, `logprobs` are raw (temperature 1)."""

    token_ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
    end_probability: float
    """P(`watch_id`) at the first position, raw."""
    end_is_likeliest: bool
    """`watch_id` has the highest P of the first position; False where nobody asked (`Draw.rank_watched`)."""
    top_logprobs: Sequence[Mapping[int, float]] = ()
    """By position: log-probability by token id; empty where none were asked for."""


@dataclass(frozen=True)
class SampledPiece:
    """The next tokens of one continuation, as `Sampled` would have them; the last piece has `finish`."""

    token_ids: list[int]
    logprobs: list[float]
    end_probability: float
    end_is_likeliest: bool
    finish: Literal["stop", "length"] | None = None


class Sampler(Protocol):
    """Implemented by `backends.local` and `backends.http`; both draw sample i of n from seed + i."""

    async def sample(self, asked: Draw) -> list[Sampled]: ...

    def stream(self, asked: Draw) -> AsyncGenerator[SampledPiece, None]:
        """One continuation (`n` is 1), without `top_logprobs`. Closing it early stops the engine."""
        ...

    async def aclose(self) -> None: ...


class TurnPiece(Record):
    """The next words of a turn that is being said. The first piece has none: it says that a token is known."""

    text: str
    """Whole characters; the pieces add up to the text of the `UserTurn` that comes last."""
    end_probability: float = Field(ge=0, le=1)
    tokens: tuple[TokenLogprob, ...] = ()
    """Where they were asked for: what was sampled meanwhile, also what is not shown yet."""


class Leaving(Record):
    """Whether the user would leave now, without a word drawn."""

    end_probability: float = Field(ge=0, le=1)
    ends: bool
    prompt_tokens: int


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
        affinity: str | None = None,
        logprobs: int | None = None,
    ) -> list[UserTurn]:
        """`n` independent next turns, in order of their seeds (`seed + i`); one prefill for all of them.

        The same seed gives the same turn on the local backend. With vLLM a turn also depends, through rounding,
        on what else is in the engine's batch. `logprobs` makes them `DetailedTurn`s, with that many of the
        likeliest tokens at every position. Raises RenderError (history), BackendError (engine), GuardError
        (every attempt at one rejected).
        """
        end = end or self.end
        asked = self._asked(profile, turns, sampling, end, affinity, logprobs)
        whole = self._wants_whole(sampling)
        accepted: dict[int, UserTurn] = {}
        cut: dict[int, UserTurn] = {}
        rejected: dict[int, list[str]] = {index: [] for index in range(n)}
        # At temperature 0 another would be the same.
        attempts = self.guards.attempts if asked.sampling.temperature else 1
        for attempt in range(attempts):
            missing = [index for index in range(n) if index not in accepted]
            if not missing:
                break
            # Fresh seeds for every attempt, and the same ones whenever the call is repeated.
            base = None if seed is None else seed + attempt * 1_000_003
            drawn = await self.sampler.sample(replace(asked, n=len(missing), seed=base))
            for place, (index, sampled) in enumerate(zip(missing, drawn, strict=True)):
                own = None if base is None else base + place
                said = self._read(sampled, end, turns, own, detailed=logprobs is not None)
                why = self._refusal(said, profile.goal, turns, whole)
                if why is None:
                    accepted[index] = said
                    continue
                rejected[index].append(why)
                if why == "cut":
                    cut.setdefault(index, said)
        for index in cut.keys() - accepted.keys():
            accepted[index] = cut[index]
            rejected[index].remove("cut")
        self.rejections.update(why for reasons in rejected.values() for why in reasons)
        if len(accepted) < n:
            raise _exhausted(rejected, accepted, attempts)
        told = {"prompt_tokens": len(asked.prompt_ids)}
        return [
            accepted[index].model_copy(update={**told, "rejected": tuple(rejected[index])})
            for index in range(n)
        ]

    async def stream(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        *,
        seed: int | None = None,
        sampling: Sampling | None = None,
        end: EndPolicy | None = None,
        affinity: str | None = None,
        logprobs: bool = False,
    ) -> AsyncGenerator[TurnPiece | UserTurn, None]:
        """One turn as it is said: `TurnPiece`s, then the whole as a `UserTurn`. A user who leaves says nothing.

        What was shown cannot be taken back, so this is one attempt: `rejected` says what the guards would
        have refused. Close it early (`contextlib.aclosing`) to stop the engine.
        """
        end = end or self.end
        asked = replace(self._asked(profile, turns, sampling, end, affinity), seed=seed)
        shown, ids, logps = TextStream(self.renderer), list[int](), list[float]()
        async with aclosing(self.sampler.stream(asked)) as pieces:
            async for piece in pieces:
                if not ids:
                    yield TurnPiece(text="", end_probability=_share(piece.end_probability))
                ids += piece.token_ids
                logps += piece.logprobs
                if _decided(piece, end, turns):
                    break
                fresh = shown.push(piece.token_ids)
                tokens = trace(self.renderer, piece.token_ids, piece.logprobs) if logprobs else ()
                if fresh or tokens:
                    yield TurnPiece(text=fresh, end_probability=_share(piece.end_probability), tokens=tokens)
        sampled = Sampled(ids, logps, piece.finish or "stop", piece.end_probability, piece.end_is_likeliest)
        said = self._read(sampled, end, turns, seed, detailed=logprobs)
        if rest := shown.finish(said.text):
            yield TurnPiece(text=rest, end_probability=said.end_probability)
        why = self._refusal(said, profile.goal, turns, self._wants_whole(sampling))
        told = {"prompt_tokens": len(asked.prompt_ids), "rejected": (why,) if why else ()}
        yield said.model_copy(update=told)

    async def termination(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        *,
        end: EndPolicy | None = None,
        affinity: str | None = None,
    ) -> Leaving:
        """P(end) and the decision, for one token. Mode sample decides by the threshold: nothing is drawn."""
        end = end or self.end
        one = Sampling(temperature=0, max_tokens=1)
        asked = replace(self._asked(profile, turns, one, end, affinity), ban_ids=())
        (sampled,) = await self.sampler.sample(asked)
        mode: Literal["greedy", "threshold"] = "greedy" if end.mode == "greedy" else "threshold"
        ends = end.mode != "never" and _decided(sampled, end.model_copy(update={"mode": mode}), turns)
        return Leaving(
            end_probability=_share(sampled.end_probability),
            ends=ends,
            prompt_tokens=len(asked.prompt_ids),
        )

    def _asked(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        sampling: Sampling | None,
        end: EndPolicy,
        affinity: str | None,
        top_logprobs: int | None = None,
    ) -> Draw:
        settings, sampling = self.renderer.settings, sampling or self.sampling
        prompt = self.renderer.prompt(profile, turns)
        # Whoever scores what was said (`top_logprobs`) needs a place after it.
        room = max(1, settings.context_tokens - len(prompt) - bool(top_logprobs))
        # Threshold and greedy read P(end) from the same call, which is raw: a ban does not touch it.
        banned = end.mode != "sample" or not _may_end(end, turns)
        return Draw(
            prompt,
            self.renderer.stop_ids,
            settings.end_of_conversation_id,
            sampling.model_copy(update={"max_tokens": min(sampling.max_tokens, room)}),
            ban_ids=[settings.end_of_conversation_id] if banned else [],
            affinity=affinity,
            top_logprobs=top_logprobs or 0,
            rank_watched=end.mode == "greedy",
        )

    def _wants_whole(self, sampling: Sampling | None) -> bool:
        """Whoever asks for fewer tokens than the user's own sampling wants a piece."""
        asked = (sampling or self.sampling).max_tokens
        return self.guards.max_words is not None and asked >= self.sampling.max_tokens

    def _refusal(self, said: UserTurn, goal: Goal | None, turns: Sequence[Turn], whole: bool) -> str | None:
        if said.ends:
            return None
        why = rejection(said.text, goal, turns, self.guards)
        return "cut" if why is None and whole and said.finish == "length" else why

    def _read(
        self,
        sampled: Sampled,
        end: EndPolicy,
        turns: Sequence[Turn],
        seed: int | None,
        *,
        detailed: bool,
    ) -> UserTurn:
        text, ends = self.renderer.read(sampled.token_ids)
        logprob, ids = sum(sampled.logprobs), sampled.token_ids
        if _decided(sampled, end, turns):  # the words drawn beside are not what was said
            ends, ids = True, []
            logprob = math.log(max(sampled.end_probability, sys.float_info.min))
        said: dict[str, Any] = {
            "text": "" if ends else text,
            "ends": ends,
            "end_probability": _share(sampled.end_probability),
            "finish": "end" if ends else sampled.finish,
            "logprob": logprob,
            "tokens": len(sampled.token_ids),
            "seed": seed,
        }
        if not detailed:
            return UserTurn(**said)
        known = len(ids)
        named = trace(self.renderer, ids, sampled.logprobs[:known], sampled.top_logprobs[:known])
        return DetailedTurn(**said, trace=named)

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


def _decided(first: Sampled | SampledPiece, end: EndPolicy, turns: Sequence[Turn]) -> bool:
    """Whether P(end) alone ends the conversation."""
    if not _may_end(end, turns) or end.mode not in ("threshold", "greedy"):
        return False
    return first.end_is_likeliest if end.mode == "greedy" else first.end_probability >= end.threshold


def _share(probability: float) -> float:
    """Rounding in the engine must not make a probability of 1.0000001."""
    return min(1.0, max(0.0, probability))


def as_profile(goal: str | Goal | None = None, persona: str | Persona | None = None) -> UserProfile:
    """Strings or full objects alike, as everywhere in the public interface."""
    if isinstance(goal, str):
        goal = Goal(summary=goal) if goal.strip() else None
    if isinstance(persona, str):
        persona = Persona(description=persona.strip()) if persona.strip() else None
    return UserProfile(goal=goal, persona=persona)
