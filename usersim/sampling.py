"""`Sampler` (token ids → token ids) under `UserLM` (profile and turns → `UserTurn`), with guards between them."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import Field

from usersim.errors import GuardError
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

    async def sample(
        self,
        prompt_ids: Sequence[int],
        *,
        n: int,
        seed: int | None,
        sampling: Sampling,
        stop_ids: Sequence[int],
        watch_id: int,
        ban_ids: Sequence[int] = (),
    ) -> list[Sampled]: ...

    async def aclose(self) -> None: ...


class User(Protocol):
    """Whoever plays the human: a `UserLM`, the endpoint's client, a prompted model, a script."""

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn: ...


class Guards(Record):
    """What makes an attempt be thrown away and drawn anew; the text itself is never changed."""

    empty: bool = True
    repeat: bool = True
    """Equal to an earlier user turn, but for case and spacing."""
    goal_copy: bool = True
    """Equal to the goal's summary, or with a run of `goal_run_words` words of the summary or of one facet.
    A short facet said whole is no copy: people answer "two people"."""
    goal_run_words: int = Field(default=8, ge=2)
    assistant_speak: bool = True
    max_words: int | None = 200
    """Runaway turns: refused above this, and drawn anew when `max_tokens` cut them off. Where every attempt was
    cut or refused, the first cut one is given out with finish "length": half a sentence that says so is better
    than a lost conversation. A call that asks for fewer tokens than the user's own sampling gets its piece.
    None: any length."""
    attempts: int = Field(default=6, ge=1)

    @classmethod
    def off(cls) -> Guards:
        """The first attempt, whatever it is."""
        return cls(
            empty=False, repeat=False, goal_copy=False, assistant_speak=False, max_words=None, attempts=1
        )


ASSISTANT_SPEAK = re.compile(
    r"\bas an ai\b|\bas a(?:n ai)? language model\b|\bhow (?:can|may) i (?:help|assist) you\b"
    r"|\bi(?:'m| am) (?:here|happy) to (?:help|assist)\b|\bis there anything else i can\b"
    r"|^(?:sure|certainly|of course)[,!.] here(?:'s| is| are)\b|\bfeel free to ask\b",
    re.IGNORECASE,
)


def rejection(text: str, goal: Goal | None, turns: Sequence[Turn], guards: Guards) -> str | None:
    """Why the guards refuse `text`, or None."""
    if not text:
        return "empty" if guards.empty else None
    said = _normal(text)
    if guards.repeat and any(turn.role == "user" and _normal(turn.text) == said for turn in turns):
        return "repeat"
    if guards.goal_copy and goal is not None and _copies(said, goal, guards.goal_run_words):
        return "goal_copy"
    if guards.assistant_speak and ASSISTANT_SPEAK.search(text):
        return "assistant_speak"
    if guards.max_words is not None and len(text.split()) > guards.max_words:
        return "too_long"
    return None


def _normal(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")


def _copies(said: str, goal: Goal, run: int) -> bool:
    wishes = [_normal(goal.summary), *(_normal(facet.text) for facet in goal.facets)]
    return said == wishes[0] or any(_has_run_of(said, wish.split(), run) for wish in wishes)


def _has_run_of(said: str, words: list[str], run: int) -> bool:
    runs = (" ".join(words[i : i + run]) for i in range(len(words) - run + 1))
    return any(f" {copied} " in f" {said} " for copied in runs)


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
            prompt,
            n=n,
            seed=seed,
            sampling=sampling,
            stop_ids=self.renderer.stop_ids,
            watch_id=settings.end_of_conversation_id,
            ban_ids=[settings.end_of_conversation_id] if banned else [],
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
