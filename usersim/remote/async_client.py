"""The endpoint's client: everything a local `UserLM` does, over `/v1/user/…`."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import httpx2

from usersim.backends.connections import Connections
from usersim.backends.sse import DONE, event_data
from usersim.errors import BackendError, UsersimError
from usersim.remote.wire import TryLaterError, pieces, refusal, situation, turns_of
from usersim.text.user_acts import Act
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.protocols import EndPolicy, Leaving, Sampling, TurnPiece

T = TypeVar("T")
BATCH = 64
FIRST_WAIT_S, LONGEST_BACKOFF_S, LONGEST_WAIT_S = 0.5, 8.0, 120.0


class RemoteUser:
    """A `User` behind HTTP. Sampling, end policy and guards are the server's unless given here.

    What may succeed later is tried again, `max_retries` times, when the server says or a little later each
    time. That is safe: a request changes nothing on the server, and the same seed asks for the same turn.

    It connects when it is asked, on whatever event loop that is, and holds its configuration alone (the API key
    among it): it can be pickled, copied and used after a fork.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "userlm",
        api_key: str | None = None,
        timeout_s: float = 120.0,
        max_retries: int = 2,
    ) -> None:
        self.url, self.model, self.name = url, model, model
        self.common_noise = False
        """As `UserLM.common_noise`."""
        self.max_retries = max_retries
        self._connections = Connections(url, timeout_s=timeout_s)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

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
        act: Act | None = None,
    ) -> list[UserTurn]:
        """As `UserLM.sample`; `affinity` keeps the turns of one conversation on one engine."""
        body = self._asked(profile, turns, seed, sampling, end, affinity) | {"n": n}
        if logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": logprobs}
        if act is not None:
            body["act"] = act
        return turns_of(await self._post("/v1/user/turns", body), detailed=logprobs is not None)

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
        act: Act | None = None,
    ) -> AsyncGenerator[TurnPiece | UserTurn, None]:
        """As `UserLM.stream`. Tried again only until the first piece is here."""
        body = self._asked(profile, turns, seed, sampling, end, affinity) | {"logprobs": logprobs}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if act is not None:
            body["act"] = act

        async def begin() -> tuple[AsyncGenerator[TurnPiece | UserTurn, None], TurnPiece | UserTurn]:
            coming = pieces(self._events("/v1/user/turns", body), detailed=logprobs)
            return coming, await anext(coming)

        coming, first = await self._retrying(begin)
        async with aclosing(coming):
            yield first
            async for piece in coming:
                yield piece

    async def termination(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        *,
        end: EndPolicy | None = None,
        affinity: str | None = None,
    ) -> Leaving:
        """Whether the user would leave now, without a word drawn."""
        body = situation(self.model, profile, turns, end, affinity)
        answer = await self._post("/v1/user/termination", body)
        return Leaving(
            end_probability=answer["end_of_conversation_prob"],
            ends=answer["end_of_conversation"],
            prompt_tokens=answer["usage"]["prompt_tokens"],
        )

    async def batch(
        self,
        requests: Sequence[tuple[UserProfile, Sequence[Turn]]],
        *,
        seed: int | None = None,
        sampling: Sampling | None = None,
        end: EndPolicy | None = None,
    ) -> list[UserTurn | UsersimError]:
        """One turn each, in order; a failed one is its error. Request i draws from seed + i. Any number of
        requests, of which 64 are under way at a time."""
        items = [
            self._asked(profile, turns, None if seed is None else seed + index, sampling, end, None)
            for index, (profile, turns) in enumerate(requests)
        ]
        made: list[UserTurn | UsersimError] = []
        for start in range(0, len(items), BATCH):
            answer = await self._post("/v1/user/turns/batch", {"items": items[start : start + BATCH]})
            made += [self._result(result) for result in answer["results"]]
        return made

    async def profiles(self, n: int = 1, *, seed: int | None = None) -> list[UserProfile]:
        """As `Population.sample`, from the population of the server's model; at most 512 at a time.

        Args:
            n: Users to draw.
            seed: None: the server draws one.
        """
        body = {"model": self.model, "n": n, "seed": seed}
        answer = await self._post("/v1/user/profiles", body)
        return [UserProfile.model_validate(profile) for profile in answer["profiles"]]

    async def aclose(self) -> None:
        await self._connections.aclose()

    def _asked(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        seed: int | None,
        sampling: Sampling | None,
        end: EndPolicy | None,
        affinity: str | None,
    ) -> dict[str, Any]:
        drawn = sampling.model_dump(exclude_unset=True) if sampling else {}
        if self.common_noise:
            drawn["common_noise"] = True
        return situation(self.model, profile, turns, end, affinity) | {"seed": seed} | drawn

    def _result(self, result: dict[str, Any]) -> UserTurn | UsersimError:
        if result["status"] == 200:
            return turns_of(result["body"])[0]
        return refusal(self.url, result["status"], result)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        async def once() -> Any:
            async with self._open(path, body) as response:
                await response.aread()
            try:
                return response.json()
            except ValueError as error:
                raise BackendError(f"{self.url}: an answer that is not JSON", retryable=True) from error

        return await self._retrying(once)

    async def _events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async with self._open(path, body) as response:
            async for data in event_data(response.aiter_bytes()):
                if data == DONE:
                    return
                try:
                    event = json.loads(data)
                except ValueError as error:
                    raise BackendError(f"{self.url}: an event that is not JSON", retryable=True) from error
                if "error" in event:
                    raise refusal(self.url, response.status_code, event)
                yield event
        raise BackendError(f"{self.url}: the stream broke off", retryable=True)

    @asynccontextmanager
    async def _open(self, path: str, body: dict[str, Any]) -> AsyncGenerator[httpx2.Response, None]:
        try:
            client, base = self._connections.here()
            request = client.stream("POST", base + path, json=body, headers=self._headers)
            async with request as response:
                if response.status_code != 200:
                    await response.aread()
                    raise refusal(self.url, response.status_code, _said(response), response.headers)
                yield response
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise BackendError(f"{self.url}: {reason}", retryable=True) from error

    async def _retrying(self, once: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        while True:
            try:
                return await once()
            except BackendError as error:
                told_s = error.wait_s if isinstance(error, TryLaterError) else None
                if not error.retryable or tries == self.max_retries or (told_s or 0) > LONGEST_WAIT_S:
                    raise
            # Jitter: clients that were refused together should not come back together.
            backoff_s = min(FIRST_WAIT_S * 2**tries, LONGEST_BACKOFF_S) * random.uniform(0.5, 1)
            tries += 1
            await asyncio.sleep(backoff_s if told_s is None else told_s * random.uniform(1, 1.1))


def _said(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text
