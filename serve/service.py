"""What every dialect stands on: the User LM, its names, the metrics, and whether the engine answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from serve.config import ServeConfig
from serve.errors import RequestError
from serve.metrics import Metrics
from serve.schemas import SamplingFields, Usage
from usersim.errors import BackendError, GuardError
from usersim.sampling import Draw, Sampling, UserLM
from usersim.types import Turn, UserProfile, UserTurn

log = logging.getLogger(__name__)
PROBE_TIMEOUT_S = 10.0


class Service:
    """Stateless between requests, but for counters and the time of the last proof of life."""

    def __init__(self, config: ServeConfig, user: UserLM) -> None:
        self.config, self.user, self.metrics = config, user, Metrics()
        self.names = tuple(dict.fromkeys([*config.names, user.name]))
        self.started = int(time.time())
        self._seen_s, self._works = -1e9, False
        self._probing = asyncio.Lock()

    def check_model(self, name: str | None) -> str:
        """The name to answer under; raises RequestError 404. Never looks at the file system."""
        if name is not None and name not in self.names:
            known = ", ".join(self.names)
            raise RequestError(
                f"the model {name[:80]!r} does not exist; this endpoint serves {known}",
                code="model_not_found",
                param="model",
                status=404,
            )
        return name or self.names[0]

    async def turns(
        self,
        profile: UserProfile,
        history: Sequence[Turn],
        asked: SamplingFields,
        *,
        max_tokens: int | None = None,
    ) -> list[UserTurn]:
        """The asked-for samples; what the request leaves open is the server's default."""
        given = {"temperature": asked.temperature, "top_p": asked.top_p, "max_tokens": max_tokens}
        end = self.user.end
        if asked.end_of_conversation is not None:
            end = end.model_copy(update=asked.end_of_conversation.model_dump(exclude_unset=True))
        try:
            turns = await self.user.sample(
                profile,
                history,
                n=asked.n or 1,
                seed=asked.seed,
                sampling=_over(self.user.sampling, given),
                end=end,
            )
        except GuardError as error:
            for reason, count in error.reasons.items():
                self.metrics.rejected([reason] * count)
            raise
        self._seen(works=True)
        self.metrics.gave(turns)
        return turns

    async def ready(self) -> bool:
        """Whether a real one-token completion worked within the last seconds. A live process proves nothing:
        vLLM's own /health is 200 while its core hangs."""
        async with self._probing:
            if time.monotonic() - self._seen_s > self.config.ready_for_s:
                try:
                    await asyncio.wait_for(self._probe(), PROBE_TIMEOUT_S)
                except (BackendError, TimeoutError) as error:
                    log.warning("the probe failed: %s", str(error) or "no answer in time")
                    self._seen(works=False)
            return self._works

    async def _probe(self) -> None:
        renderer, one = self.user.renderer, Sampling(temperature=0, max_tokens=1)
        end = renderer.settings.end_of_conversation_id
        await self.user.sampler.sample(
            Draw(renderer.prompt(UserProfile(), []), renderer.stop_ids, end, one, seed=0)
        )
        self._seen(works=True)

    def _seen(self, *, works: bool) -> None:
        self._seen_s, self._works = time.monotonic(), works
        self.metrics.engine_up.set(works)


def _over(sampling: Sampling, given: dict[str, float | int | None]) -> Sampling:
    return sampling.model_copy(update={key: value for key, value in given.items() if value is not None})


def usage(turns: Sequence[UserTurn]) -> Usage:
    prompt, sampled = turns[0].prompt_tokens, sum(turn.tokens for turn in turns)
    return Usage(prompt_tokens=prompt, completion_tokens=sampled, total_tokens=prompt + sampled)
