"""`UserLM`: samples user turns from a trained model over any `Sampler`, with guards and an end policy."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal, TypeVar

from usersim.decoding.noise import nth_seed, sampler_seed
from usersim.errors import ConfigError
from usersim.rendering.renderer import Renderer
from usersim.rendering.token_text import DetailedTurn, TextStream, trace
from usersim.text.user_acts import Act
from usersim.types import Goal, Turn, UserProfile, UserTurn
from usersim.users.discriminator import TurnDiscriminator, without_discriminator
from usersim.users.guards import Guards, rejection
from usersim.users.protocols import (
    Draw,
    EndPolicy,
    Leaving,
    Sampled,
    SampledPiece,
    Sampler,
    Sampling,
    TurnPiece,
)
from usersim.users.resampling import CUT, Tries

COLD = 1e-5
"""Temperature below which samplers are greedy."""
Drawn = TypeVar("Drawn", Sampled, SampledPiece)


class UserLM:
    """Trained User LM over any `Sampler`. `rejections` counts the attempts rejected by the guards, by reason."""

    def __init__(
        self,
        renderer: Renderer,
        sampler: Sampler,
        *,
        sampling: Sampling | None = None,
        end: EndPolicy | None = None,
        guards: Guards | None = None,
        name: str = "userlm",
        common_noise: bool = False,
        discriminator: TurnDiscriminator | None = None,
    ) -> None:
        self.renderer, self.sampler, self.name = renderer, sampler, name
        self.common_noise = common_noise
        """Common random numbers: a seed gives the same noise whatever the prompt, for paired comparisons. The caller
        then has to give each turn its own seed; `n` turns use `seed + i`."""
        self.discriminator = discriminator
        """Chooses among several candidates of a turn; needed by `Sampling.best_of` above 1."""
        self.sampling = sampling or renderer.settings.decoding or Sampling()
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
        common_noise: bool | None = None,
        act: Act | None = None,
    ) -> list[UserTurn]:
        """Samples `n` independent next turns with one shared prefill.

        On the local backend the same seed and prompt give the same turn. With vLLM a turn also depends, through
        rounding, on the other requests in the engine's batch. A turn's `seed` reproduces that turn alone. At
        temperature 0 all `n` turns are equal; if the guards reject it, it is resampled at a higher temperature, with
        the same noise in every call.

        With `sampling.best_of` above 1 each turn is the candidate with the highest score of the discriminator, among
        those that the guards accept and that have text. The first accepted candidate decides whether the person
        leaves, so that leaving is as likely as without a choice. At temperature 0 there is no choice.

        Args:
            profile: Goal and persona of the user.
            turns: History, empty or ending with the assistant.
            n: Number of turns.
            seed: Seed of the first turn. None: random.
            sampling: Sampling parameters. None: the user's own.
            end: End policy. None: the user's own.
            affinity: Routing key for several engines (`Draw.affinity`).
            logprobs: Number of most likely tokens reported per position; the turns are then `DetailedTurn`s.
            common_noise: Common random numbers. None: the user's own setting.
            act: Requested act of the turn, for a model trained with acts (`RenderSettings.acts`).

        Returns:
            `n` turns.

        Raises:
            RenderError: The history cannot be rendered.
            BackendError: The engine failed.
            GuardError: Every attempt at one of the turns was rejected.
            ConfigError: `best_of` above 1 without a discriminator.
        """
        end = end or self.end
        common = self.common_noise if common_noise is None else common_noise
        request = self._request(profile, turns, sampling, end, affinity, logprobs, act)
        whole, cold = self._wants_whole(sampling), request.sampling.temperature < COLD
        best_of = 1 if cold else request.sampling.best_of
        if best_of > 1 and self.discriminator is None:
            raise ConfigError(without_discriminator(best_of, self.name))
        tries, drawn_tokens = Tries(1 if cold else n, lenient=cold), Counter[int]()
        first_seed = 0 if cold and seed is None else seed
        base = None if first_seed is None else sampler_seed(first_seed, request.prompt_ids, common=common)
        for attempt in range(self.guards.attempts):
            if not (missing := tries.missing):
                break
            # Fresh noise for every attempt, and the same whenever the call is repeated.
            shift = attempt * 1_000_003
            fresh = replace(request, n=len(missing) * best_of, seed=None if base is None else base + shift)
            samples = await self.sampler.sample(self._warm(fresh) if cold and attempt else fresh)
            samples = [self._calibrated(sampled, turns) for sampled in samples]
            for place, index in zip(range(0, len(samples), best_of), missing, strict=True):
                own = seed if cold or seed is None else nth_seed(seed, shift + place, common=common)
                noise = self._end_noise(request, own, common=common, cold=cold)
                passing = []
                for sampled in samples[place : place + best_of]:
                    turn = self._read(sampled, end, turns, own, noise, detailed=logprobs is not None)
                    drawn_tokens[index] += turn.tokens
                    if why := self._refusal(turn, profile.goal, turns, whole):
                        tries.add(index, turn, why)
                    else:
                        passing.append(turn)
                if passing:
                    tries.add(index, self._chosen(passing, profile.goal, turns), None)
        tries.settle()
        self.rejections.update(tries.reasons)
        result = tries.turns(self.guards.attempts, prompt_tokens=len(request.prompt_ids))
        if best_of > 1:
            result = [
                turn.model_copy(update={"drawn_tokens": drawn_tokens[index]})
                for index, turn in enumerate(result)
            ]
        return result * n if cold else result

    def _chosen(self, passing: Sequence[UserTurn], goal: Goal | None, turns: Sequence[Turn]) -> UserTurn:
        """The first where it leaves, else the likeliest of those that say something; at a tie the first."""
        if len(passing) == 1 or passing[0].ends or self.discriminator is None:
            return passing[0]
        spoken = [turn for turn in passing if not turn.ends]
        scores = self.discriminator.scores(goal, turns, [turn.text for turn in spoken])
        return spoken[scores.index(max(scores))]

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
        common_noise: bool | None = None,
        act: Act | None = None,
    ) -> AsyncGenerator[TurnPiece | UserTurn, None]:
        """Streams one turn: `TurnPiece`s, then the whole turn as a `UserTurn`. A user who leaves has no text.

        Streamed text cannot be withdrawn, so there is one attempt only: `rejected` has the reason for which the guards
        would have rejected it. Close the generator early (`contextlib.aclosing`) to stop the engine. The arguments are
        those of `sample`. Raises ConfigError where `best_of` is above 1: a choice needs whole turns.
        """
        end = end or self.end
        common = self.common_noise if common_noise is None else common_noise
        request = self._request(profile, turns, sampling, end, affinity, act=act)
        if request.sampling.best_of > 1:
            raise ConfigError(
                f"a stream has one candidate, not best_of={request.sampling.best_of}: stream with best_of=1, or take "
                "the turn whole"
            )
        if seed is not None:
            request = replace(request, seed=sampler_seed(seed, request.prompt_ids, common=common))
        cold = request.sampling.temperature < COLD
        noise = self._end_noise(request, seed, common=common, cold=cold)
        text_stream, ids, logps = TextStream(self.renderer), list[int](), list[float]()
        async with aclosing(self.sampler.stream(request)) as pieces:
            async for raw_piece in pieces:
                piece = self._calibrated(raw_piece, turns)
                if not ids:
                    yield TurnPiece(text="", end_probability=_share(piece.end_probability))
                ids += piece.token_ids
                logps += piece.logprobs
                if _decided(piece, end, turns, noise):
                    break
                fresh = text_stream.push(piece.token_ids)
                tokens = trace(self.renderer, piece.token_ids, piece.logprobs) if logprobs else ()
                if fresh or tokens:
                    yield TurnPiece(text=fresh, end_probability=_share(piece.end_probability), tokens=tokens)
        sampled = Sampled(ids, logps, piece.finish or "stop", piece.end_probability, piece.end_is_likeliest)
        turn = self._read(sampled, end, turns, seed, noise, detailed=logprobs)
        if rest := text_stream.finish(turn.text):
            yield TurnPiece(text=rest, end_probability=turn.end_probability)
        why = self._refusal(turn, profile.goal, turns, self._wants_whole(sampling))
        facts = {"prompt_tokens": len(request.prompt_ids), "rejected": (why,) if why else ()}
        yield turn.model_copy(update=facts)

    async def termination(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        *,
        end: EndPolicy | None = None,
        affinity: str | None = None,
    ) -> Leaving:
        """Returns P(end) and the termination decision at the cost of one token.

        Mode sample decides by the threshold.
        """
        end = end or self.end
        one = Sampling(temperature=0, max_tokens=1)
        request = replace(self._request(profile, turns, one, end, affinity), ban_ids=())
        (sample,) = await self.sampler.sample(request)
        sampled = self._calibrated(sample, turns)
        mode: Literal["greedy", "threshold"] = "greedy" if end.mode == "greedy" else "threshold"
        ends = end.mode != "never" and _decided(sampled, end.model_copy(update={"mode": mode}), turns)
        return Leaving(
            end_probability=_share(sampled.end_probability),
            ends=ends,
            prompt_tokens=len(request.prompt_ids),
        )

    def _request(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        sampling: Sampling | None,
        end: EndPolicy,
        affinity: str | None,
        top_logprobs: int | None = None,
        act: Act | None = None,
    ) -> Draw:
        settings, sampling = self.renderer.settings, sampling or self.sampling
        prompt = self.renderer.prompt(profile, turns, act=act)
        # A request for scores (`top_logprobs`) needs one position after the turn.
        room = max(1, settings.context_tokens - len(prompt) - bool(top_logprobs))
        # Threshold and greedy read P(end) from the same call, which is raw: a ban does not touch it.
        # So is a calibrated one: words are sampled with the end banned, and leaving is sampled separately
        # (`_end_noise`).
        apart = end.mode != "sample" or settings.calibration is not None
        banned = apart or not _may_end(end, turns)
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

    def _calibrated(self, sample: Drawn, turns: Sequence[Turn]) -> Drawn:
        """Returns the sample with its P(end) calibrated; the most likely token stays the model's."""
        spoken = sum(turn.role == "user" for turn in turns)
        settings = self.renderer.settings
        return replace(
            sample, end_probability=settings.end_probability(sample.end_probability, user_turns=spoken)
        )

    def _end_noise(self, request: Draw, seed: int | None, *, common: bool, cold: bool) -> float | None:
        """Returns the uniform number for sampling the end with a calibrated P(end): the user leaves if it is below.

        It derives from the turn's seed; at temperature 0 it is 0.5. None without a calibration, where the sampled token
        itself decides.
        """
        if self.renderer.settings.calibration is None:
            return None
        if cold:
            return 0.5
        if seed is None:
            return random.random()
        return random.Random(f"end:{sampler_seed(seed, request.prompt_ids, common=common)}").random()

    def _warm(self, request: Draw) -> Draw:
        usual = self.sampling.temperature
        warm = request.sampling.model_copy(update={"temperature": usual if usual >= COLD else 1.0})
        return replace(request, sampling=warm)

    def _wants_whole(self, sampling: Sampling | None) -> bool:
        """Returns True unless the call sets fewer `max_tokens` than the user's own sampling, and so accepts a cut
        turn."""
        max_tokens = (sampling or self.sampling).max_tokens
        return self.guards.max_words is not None and max_tokens >= self.sampling.max_tokens

    def _refusal(self, turn: UserTurn, goal: Goal | None, turns: Sequence[Turn], whole: bool) -> str | None:
        if turn.ends:
            return None
        why = rejection(turn.text, goal, turns, self.guards)
        return CUT if why is None and whole and turn.finish == "length" else why

    def _read(
        self,
        sampled: Sampled,
        end: EndPolicy,
        turns: Sequence[Turn],
        seed: int | None,
        noise: float | None,
        *,
        detailed: bool,
    ) -> UserTurn:
        text, ends = self.renderer.read(sampled.token_ids)
        logprob, ids = sum(sampled.logprobs), sampled.token_ids
        if _decided(sampled, end, turns, noise):  # the sampled words are discarded
            ends, ids = True, []
            logprob = math.log(max(sampled.end_probability, sys.float_info.min))
        fields: dict[str, Any] = {
            "text": "" if ends else text,
            "ends": ends,
            "end_probability": _share(sampled.end_probability),
            "finish": "end" if ends else sampled.finish,
            "logprob": logprob,
            "tokens": len(sampled.token_ids),
            "seed": seed,
        }
        if not detailed:
            return UserTurn(**fields)
        named = trace(self.renderer, ids, sampled.logprobs[: len(ids)], sampled.top_logprobs[: len(ids)])
        return DetailedTurn(**fields, trace=named)

    async def aclose(self) -> None:
        await self.sampler.aclose()


def _may_end(end: EndPolicy, turns: Sequence[Turn]) -> bool:
    spoken = sum(turn.role == "user" for turn in turns)
    return end.mode != "never" and spoken >= end.min_user_turns


def _decided(
    first: Sampled | SampledPiece, end: EndPolicy, turns: Sequence[Turn], noise: float | None = None
) -> bool:
    """Returns True if P(end) alone ends the conversation. `noise`: uniform number of `UserLM._end_noise`."""
    if not _may_end(end, turns):
        return False
    if end.mode == "sample":
        return noise is not None and noise < first.end_probability
    return first.end_is_likeliest if end.mode == "greedy" else first.end_probability >= end.threshold


def _share(probability: float) -> float:
    """Clips to [0, 1]: rounding in the engine can give 1.0000001."""
    return min(1.0, max(0.0, probability))
