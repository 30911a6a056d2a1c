"""What every dialect stands on: the User LM, its names, the server's defaults, and the counters."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import usersim
from serve.api.responses import Usage
from serve.config import ServeConfig
from serve.http import request_context as visit
from serve.http.errors import RequestError
from serve.http.metrics import Metrics
from serve.schemas import SamplingFields
from usersim.decoding.discriminator import without_discriminator
from usersim.errors import GuardError
from usersim.populations.sample import Population
from usersim.text.user_acts import Act
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.protocols import EndPolicy, Leaving, Sampling, TurnPiece
from usersim.users.userlm import UserLM


class Service:
    """Stateless between requests, but for the counters."""

    def __init__(self, config: ServeConfig, user: UserLM, population: Population | None = None) -> None:
        self.config, self.user, self.metrics = config, user, Metrics()
        self.population = population
        self.models = config.models
        """Aliases and the engines' names for them; may be replaced while requests are under way."""
        self.started = int(time.time())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.config.names, self.user.name, *self.models]))

    def fingerprint(self, name: str) -> str:
        """Equal ones sample alike, as far as an engine does: the weights by their name, template, software."""
        facts = (usersim.__version__, self.models.get(name, self.user.name), self.user.renderer.fingerprint)
        return f"fp_{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"

    def check_model(self, name: str | None) -> str:
        """The name to answer under, whose model this task draws from; raises RequestError 404. Never looks at the
        file system."""
        if name is not None and name not in self.names:
            known = ", ".join(self.names)
            raise RequestError(
                f"the model {name[:80]!r} does not exist; this endpoint serves {known}",
                code="model_not_found",
                param="model",
                status=404,
            )
        name = name or self.names[0]
        visit.ask_for(self.models.get(name))
        return name

    def population_of(self, name: str) -> Population:
        """The population of a model by one of its names; raises RequestError 404 where it has none."""
        if self.population is None or name in self.models:
            raise RequestError(
                f"the model {name[:80]!r} has no population of users; `usersim population fit` makes one, and the "
                "server reads it at start",
                code="population_not_found",
                param="model",
                status=404,
            )
        return self.population

    async def turns(
        self,
        profile: UserProfile,
        history: Sequence[Turn],
        asked: SamplingFields,
        *,
        max_tokens: int | None = None,
        affinity: str | None = None,
        logprobs: int | None = None,
        act: Act | None = None,
    ) -> list[UserTurn]:
        """The asked-for samples; what the request leaves open is the server's default."""
        if (request := visit.current()) is not None:
            request.asks_for(asked.n or 1)
        try:
            turns = await self.user.sample(
                profile,
                history,
                n=asked.n or 1,
                seed=asked.seed,
                sampling=self._sampling(asked, max_tokens),
                end=self._end(asked.end_of_conversation),
                affinity=affinity,
                logprobs=logprobs,
                common_noise=asked.common_noise,
                act=act,
            )
        except GuardError as error:
            for reason, count in error.reasons.items():
                self.metrics.rejected([reason] * count)
            raise
        self.metrics.gave(turns)
        return turns

    async def stream(
        self,
        profile: UserProfile,
        history: Sequence[Turn],
        asked: SamplingFields,
        *,
        max_tokens: int | None = None,
        affinity: str | None = None,
        logprobs: bool = False,
        act: Act | None = None,
    ) -> AsyncGenerator[TurnPiece | UserTurn, None]:
        """One turn as it is said, the whole of it last; what the guards say of it is only told. Never the best of
        several, whatever the server's default."""
        events = self.user.stream(
            profile,
            history,
            seed=asked.seed,
            sampling=self._sampling(asked, max_tokens).model_copy(update={"best_of": 1}),
            end=self._end(asked.end_of_conversation),
            affinity=affinity,
            logprobs=logprobs,
            common_noise=asked.common_noise,
            act=act,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, UserTurn):
                    self.metrics.gave([event])
                yield event

    async def termination(
        self,
        profile: UserProfile,
        history: Sequence[Turn],
        end: EndPolicy | None,
        *,
        affinity: str | None = None,
    ) -> Leaving:
        leaving = await self.user.termination(profile, history, end=self._end(end), affinity=affinity)
        self.metrics.tokens.labels("prompt").inc(leaving.prompt_tokens)
        if (request := visit.current()) is not None:
            request.prompt_tokens += leaving.prompt_tokens  # it counts for the key's quota
        return leaving

    def _sampling(self, asked: SamplingFields, max_tokens: int | None) -> Sampling:
        given = {
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "top_k": asked.top_k,
            "max_tokens": max_tokens,
            "best_of": self._best_of(asked),
        }
        return self.user.sampling.model_copy(
            update={key: value for key, value in given.items() if value is not None}
        )

    def _best_of(self, asked: SamplingFields) -> int:
        """Candidates of each turn; raises RequestError 400 where there is no discriminator to choose by."""
        # Further models of the engines have other weights than the discriminator was fitted for.
        can_choose = self.user.discriminator is not None and visit.asked_model() is None
        if asked.best_of is None:
            return self.user.sampling.best_of if can_choose else 1
        if asked.best_of > 1 and not can_choose:
            name = visit.asked_model() or self.user.name
            raise RequestError(
                without_discriminator(asked.best_of, name), code="discriminator_not_found", param="best_of"
            )
        return asked.best_of

    def _end(self, asked: EndPolicy | None) -> EndPolicy:
        return self.user.end.model_copy(update=asked.model_dump(exclude_unset=True) if asked else {})


def usage(turns: Sequence[UserTurn]) -> Usage:
    prompt, sampled = turns[0].prompt_tokens, sum(turn.cost_tokens for turn in turns)
    return Usage(prompt_tokens=prompt, completion_tokens=sampled, total_tokens=prompt + sampled)
