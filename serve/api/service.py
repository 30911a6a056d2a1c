"""Service layer of all dialects: the User LM, its model names, default parameters and metrics."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import usersim
from serve.api.responses import CompletionUsage
from serve.config import ServeConfig
from serve.http import request_context
from serve.http.errors import RequestError
from serve.http.metrics import Metrics
from serve.schemas import SamplingFields
from usersim.errors import GuardError
from usersim.populations.sample import Population
from usersim.text.user_acts import Act
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.discriminator import without_discriminator
from usersim.users.protocols import EndPolicy, Leaving, Sampling, TurnPiece
from usersim.users.userlm import UserLM


class Service:
    """User LM with defaults and metrics; holds no state of conversations.

    Args:
        config: Settings of the endpoint.
        user: The User LM.
        population: Population of simulated users; None: the model has none.
    """

    def __init__(self, config: ServeConfig, user: UserLM, population: Population | None = None) -> None:
        self.config, self.user, self.metrics = config, user, Metrics()
        self.population = population
        self.models = config.models
        """Aliases and their engine model names; may be replaced while requests are in progress."""
        self.started = int(time.time())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.config.names, self.user.name, *self.models]))

    def fingerprint(self, name: str) -> str:
        """Hash of weights' name, template and software version; equal fingerprints sample alike."""
        facts = (usersim.__version__, self.models.get(name, self.user.name), self.user.renderer.fingerprint)
        return f"fp_{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"

    def check_model(self, name: str | None) -> str:
        """Resolves a requested model name, and selects its engine model for this task. Never reads the file system.

        Returns:
            The name for the response; the first served name for None.

        Raises:
            RequestError: With status 404 for an unknown name.
        """
        if name is not None and name not in self.names:
            served_names = ", ".join(self.names)
            raise RequestError(
                f"the model {name[:80]!r} does not exist; this endpoint serves {served_names}",
                code="model_not_found",
                param="model",
                status=404,
            )
        name = name or self.names[0]
        request_context.set_model(self.models.get(name))
        return name

    def population_of(self, name: str) -> Population:
        """Returns the population of a model name; raises RequestError 404 if it has none."""
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
        fields: SamplingFields,
        *,
        max_tokens: int | None = None,
        affinity: str | None = None,
        logprobs: int | None = None,
        act: Act | None = None,
    ) -> list[UserTurn]:
        """Samples `fields.n` turns.

        Args:
            fields: Sampling fields; unset ones take the server's defaults.
            affinity: Routing key; equal keys go to the same engine.
            logprobs: Number of likeliest tokens per position; None: no log-probabilities.

        Raises:
            GuardError: If the guards rejected all attempts.
        """
        if (context := request_context.current()) is not None:
            context.count_turns(fields.n or 1)
        try:
            turns = await self.user.sample(
                profile,
                history,
                n=fields.n or 1,
                seed=fields.seed,
                sampling=self._sampling(fields, max_tokens),
                end=self._end(fields.end_of_conversation),
                affinity=affinity,
                logprobs=logprobs,
                common_noise=fields.common_noise,
                act=act,
            )
        except GuardError as error:
            for reason, count in error.reasons.items():
                self.metrics.count_rejections([reason] * count)
            raise
        self.metrics.count_turns(turns)
        return turns

    async def stream(
        self,
        profile: UserProfile,
        history: Sequence[Turn],
        fields: SamplingFields,
        *,
        max_tokens: int | None = None,
        affinity: str | None = None,
        logprobs: bool = False,
        act: Act | None = None,
    ) -> AsyncGenerator[TurnPiece | UserTurn, None]:
        """Streams one turn in pieces, then the whole turn. Guards report objections and reject nothing.

        One candidate a turn, whatever the default of `best_of`.
        """
        events = self.user.stream(
            profile,
            history,
            seed=fields.seed,
            sampling=self._sampling(fields, max_tokens).model_copy(update={"best_of": 1}),
            end=self._end(fields.end_of_conversation),
            affinity=affinity,
            logprobs=logprobs,
            common_noise=fields.common_noise,
            act=act,
        )
        async with aclosing(events):
            async for event in events:
                if isinstance(event, UserTurn):
                    self.metrics.count_turns([event])
                yield event

    async def termination(
        self,
        profile: UserProfile,
        history: Sequence[Turn],
        end: EndPolicy | None,
        *,
        affinity: str | None = None,
    ) -> Leaving:
        """Computes P(end) for the next turn, without sampling text."""
        termination = await self.user.termination(profile, history, end=self._end(end), affinity=affinity)
        self.metrics.tokens.labels("prompt").inc(termination.prompt_tokens)
        if (context := request_context.current()) is not None:
            context.prompt_tokens += termination.prompt_tokens  # it counts for the key's quota
        return termination

    def _sampling(self, fields: SamplingFields, max_tokens: int | None) -> Sampling:
        overrides = {
            "temperature": fields.temperature,
            "top_p": fields.top_p,
            "top_k": fields.top_k,
            "max_tokens": max_tokens,
            "best_of": self._best_of(fields),
        }
        return self.user.sampling.model_copy(
            update={key: value for key, value in overrides.items() if value is not None}
        )

    def _best_of(self, fields: SamplingFields) -> int:
        """Candidates of each turn; raises RequestError 400 where there is no discriminator to choose by."""
        # Further models of the engines have other weights than the discriminator was fitted for.
        can_choose = self.user.discriminator is not None and request_context.current_model() is None
        if fields.best_of is None:
            return self.user.sampling.best_of if can_choose else 1
        if fields.best_of > 1 and not can_choose:
            name = request_context.current_model() or self.user.name
            raise RequestError(
                without_discriminator(fields.best_of, name), code="discriminator_not_found", param="best_of"
            )
        return fields.best_of

    def _end(self, fields: EndPolicy | None) -> EndPolicy:
        return self.user.end.model_copy(update=fields.model_dump(exclude_unset=True) if fields else {})


def usage(turns: Sequence[UserTurn]) -> CompletionUsage:
    prompt, sampled = turns[0].prompt_tokens, sum(turn.cost_tokens for turn in turns)
    return CompletionUsage(prompt_tokens=prompt, completion_tokens=sampled, total_tokens=prompt + sampled)
