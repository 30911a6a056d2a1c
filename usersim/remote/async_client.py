"""Asynchronous client of the User LM endpoint (`/v1/user/…`), with the methods of a local `UserLM`."""

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

    Retryable errors are retried up to `max_retries` times, after the server's Retry-After or with exponential backoff.
    That is safe: a request changes nothing on the server, and the same seed gives the same turn.

    It connects at the first request, on the event loop of the caller. It holds only its configuration, including the
    API
    key, so it can be pickled, copied and used after a fork.
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
        """Common random numbers, as `UserLM.common_noise`."""
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
        """Samples `n` turns, as `UserLM.sample`. `affinity` keeps the turns of one conversation on one engine."""
        body = self._turn_request(profile, turns, seed, sampling, end, affinity) | {"n": n}
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
        """Streams one turn, as `UserLM.stream`. Errors are retried only before the first piece."""
        body = self._turn_request(profile, turns, seed, sampling, end, affinity) | {"logprobs": logprobs}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        if act is not None:
            body["act"] = act

        async def open_stream() -> tuple[AsyncGenerator[TurnPiece | UserTurn, None], TurnPiece | UserTurn]:
            stream = pieces(self._events("/v1/user/turns", body), detailed=logprobs)
            return stream, await anext(stream)

        stream, first = await self._retrying(open_stream)
        async with aclosing(stream):
            yield first
            async for piece in stream:
                yield piece

    async def termination(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        *,
        end: EndPolicy | None = None,
        affinity: str | None = None,
    ) -> Leaving:
        """Returns P(end) and the termination decision, without sampling a turn."""
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
        """Samples one turn per request, in order; a failed one is its error.

        Request i uses seed + i. Requests are sent in batches of 64.
        """
        items = [
            self._turn_request(profile, turns, None if seed is None else seed + index, sampling, end, None)
            for index, (profile, turns) in enumerate(requests)
        ]
        results: list[UserTurn | UsersimError] = []
        for start in range(0, len(items), BATCH):
            answer = await self._post("/v1/user/turns/batch", {"items": items[start : start + BATCH]})
            results += [self._result(result) for result in answer["results"]]
        return results

    async def profiles(self, n: int = 1, *, seed: int | None = None) -> list[UserProfile]:
        """Samples profiles from the population of the server's model, as `Population.sample`.

        Args:
            n: Number of profiles, at most 512.
            seed: Seed of the sample. None: the server picks one.
        """
        body = {"model": self.model, "n": n, "seed": seed}
        answer = await self._post("/v1/user/profiles", body)
        return [UserProfile.model_validate(profile) for profile in answer["profiles"]]

    async def aclose(self) -> None:
        await self._connections.aclose()

    def _turn_request(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        seed: int | None,
        sampling: Sampling | None,
        end: EndPolicy | None,
        affinity: str | None,
    ) -> dict[str, Any]:
        overrides = sampling.model_dump(exclude_unset=True) if sampling else {}
        if self.common_noise:
            overrides["common_noise"] = True
        return situation(self.model, profile, turns, end, affinity) | {"seed": seed} | overrides

    def _result(self, result: dict[str, Any]) -> UserTurn | UsersimError:
        if result["status"] == 200:
            return turns_of(result["body"])[0]
        return refusal(self.url, result["status"], result)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        async def attempt() -> Any:
            async with self._open(path, body) as response:
                await response.aread()
            try:
                return response.json()
            except ValueError as error:
                raise BackendError(f"{self.url}: the response is not JSON", retryable=True) from error

        return await self._retrying(attempt)

    async def _events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async with self._open(path, body) as response:
            async for data in event_data(response.aiter_bytes()):
                if data == DONE:
                    return
                try:
                    event = json.loads(data)
                except ValueError as error:
                    raise BackendError(f"{self.url}: a stream event is not JSON", retryable=True) from error
                if "error" in event:
                    raise refusal(self.url, response.status_code, event)
                yield event
        raise BackendError(f"{self.url}: the stream ended early", retryable=True)

    @asynccontextmanager
    async def _open(self, path: str, body: dict[str, Any]) -> AsyncGenerator[httpx2.Response, None]:
        try:
            client, base = self._connections.here()
            request = client.stream("POST", base + path, json=body, headers=self._headers)
            async with request as response:
                if response.status_code != 200:
                    await response.aread()
                    raise refusal(self.url, response.status_code, _error_body(response), response.headers)
                yield response
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise BackendError(f"{self.url}: {reason}", retryable=True) from error

    async def _retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        retries = 0
        while True:
            try:
                return await attempt()
            except BackendError as error:
                retry_after_s = error.wait_s if isinstance(error, TryLaterError) else None
                if (
                    not error.retryable
                    or retries == self.max_retries
                    or (retry_after_s or 0) > LONGEST_WAIT_S
                ):
                    raise
            # Jitter: clients that were refused together should not come back together.
            backoff_s = min(FIRST_WAIT_S * 2**retries, LONGEST_BACKOFF_S) * random.uniform(0.5, 1)
            retries += 1
            await asyncio.sleep(
                backoff_s if retry_after_s is None else retry_after_s * random.uniform(1, 1.1)
            )


def _error_body(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text
