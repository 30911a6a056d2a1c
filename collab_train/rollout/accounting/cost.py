"""Token usage of user and assistant: prompt, cached and decoded tokens, and the prefill bound."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2

from collab_train.rollout.accounting.prefill_bound import PrefixCache
from usersim.backends.vllm_http import http_client
from usersim.chat_models.openai_chat import HttpChat
from usersim.errors import BackendError
from usersim.remote.async_client import RemoteUser
from usersim.types import UserTurn
from usersim.users.protocols import Draw, Sampled, SampledPiece

COUNTERS = {
    "prefilled": r'vllm:prompt_tokens_by_source_total\{[^}]*source="local_compute"[^}]*\}',
    "cached": r'vllm:prompt_tokens_by_source_total\{[^}]*source="local_cache_hit"[^}]*\}',
    "decoded": r"vllm:generation_tokens_total\{[^}]*\}",
}


class SideUsage:
    """Token usage of one side. Sampled tokens count even if a guard rejected them."""

    def __init__(self) -> None:
        self.calls = self.prompt_tokens = self.decoded = 0
        self.cached: int | None = None
        """Cached prompt tokens; None if not reported."""
        self.prefill_bound: int | None = None
        """Minimum tokens to prefill, in blocks of 16 (`PrefixCache`); None if token ids are not reported."""
        self._cache = PrefixCache()

    def add(self, prompt: int, decoded: int, *, cached: int | None = None) -> None:
        self.calls += 1
        self.prompt_tokens += prompt
        self.decoded += decoded
        if cached is not None:
            self.cached = (self.cached or 0) + cached

    def add_ids(self, prompt_ids: list[int], completions: list[list[int]]) -> None:
        """Adds the token ids of a call to the prefill bound."""
        self.prefill_bound = (self.prefill_bound or 0) + self._cache.read(prompt_ids)
        for ids in completions:
            self._cache.wrote(prompt_ids, ids)

    def report(self, engine_counts: dict[str, int] | None = None) -> dict[str, Any]:
        """Returns the usage as JSON; `engine_counts`, the counters of the engine, take precedence."""
        cached = self.cached if engine_counts is None else engine_counts["cached"]
        prefilled = None if cached is None else self.prompt_tokens - cached
        if engine_counts is not None:
            prefilled = engine_counts["prefilled"]
        return {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "prefilled_tokens": prefilled,
            "cached_tokens": cached,
            "decoded_tokens": self.decoded if engine_counts is None else engine_counts["decoded"],
            "prefill_floor": self.prefill_bound,
            "share_of_floor": round(self.prefill_bound / prefilled, 4)
            if self.prefill_bound and prefilled
            else None,
        }


class CountedSampler:
    """In-process sampler that counts its tokens. It has no cache between calls, so all prompt tokens are prefilled."""

    def __init__(self, sampler: Any, side: SideUsage) -> None:
        self._sampler, self._side = sampler, side

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    async def sample(self, request: Draw) -> list[Sampled]:
        sampled: list[Sampled] = await self._sampler.sample(request)
        completions = [completion.token_ids for completion in sampled]
        self._side.add(len(request.prompt_ids), sum(map(len, completions)), cached=0)
        self._side.add_ids(list(request.prompt_ids), completions)
        return sampled

    def stream(self, request: Draw) -> AsyncGenerator[SampledPiece, None]:
        pieces: AsyncGenerator[SampledPiece, None] = self._sampler.stream(request)
        return pieces

    async def aclose(self) -> None:
        await self._sampler.aclose()


class CountedChat(HttpChat):
    """Chat client that adds up token usage. A vLLM also reports token ids and, if enabled, cached tokens."""

    side: SideUsage | None = None
    _vllm: bool | None = None

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        if body is None or self.side is None:
            return await super()._request(method, path, body)
        if self._vllm is None:
            self._vllm = await self._is_vllm()
        answer = await super()._request(
            method, path, body | ({"return_token_ids": True} if self._vllm else {})
        )
        # The caller reports answers of another shape.
        with contextlib.suppress(KeyError, TypeError, IndexError, AttributeError, ValueError):
            self._count(self.side, answer)
        return answer

    def _count(self, side: SideUsage, answer: Any) -> None:
        usage, choice = answer.get("usage") or {}, answer["choices"][0]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        side.add(
            int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), cached=cached
        )
        if answer.get("prompt_token_ids") and choice.get("token_ids"):
            side.add_ids(answer["prompt_token_ids"], [choice["token_ids"]])

    async def _is_vllm(self) -> bool:
        try:
            models = await super()._request("GET", "/v1/models", None)
            return any(model.get("owned_by") == "vllm" for model in models["data"])
        except BackendError as error:
            if error.retryable:
                raise
            return False
        except (KeyError, TypeError, AttributeError):
            return False


def count_usage(speaker: Any) -> SideUsage:
    """Counts the token usage of `speaker` from now on.

    A user behind an endpoint reports the turns that it returns, but not those that its guards rejected.
    """
    side = SideUsage()
    if isinstance(speaker, CountedChat):
        speaker.side = side
    elif isinstance(speaker, RemoteUser):
        _count_turns(speaker, side)
    elif hasattr(speaker, "sampler"):
        speaker.sampler = CountedSampler(speaker.sampler, side)
    return side


def _count_turns(user: RemoteUser, side: SideUsage) -> None:
    uncounted_sample = user.sample

    async def sample(*args: Any, **kwargs: Any) -> list[UserTurn]:
        turns = await uncounted_sample(*args, **kwargs)
        side.add(turns[0].prompt_tokens, sum(turn.tokens for turn in turns))
        return turns

    user.sample = sample  # type: ignore[method-assign]


async def engine_counters(url: str) -> dict[str, int] | None:
    """Returns the tokens that the vLLM at `url` has prefilled, cached and decoded since its start, or None."""
    client, base = http_client(url.partition("#")[0], timeout_s=10)
    try:
        answer = await client.get(base + "/metrics")
    except httpx2.HTTPError:
        return None
    finally:
        await client.aclose()
    matches = {
        name: re.findall(rf"^{line} (\S+)$", answer.text, re.MULTILINE) for name, line in COUNTERS.items()
    }
    return (
        {name: round(sum(map(float, values))) for name, values in matches.items()}
        if all(matches.values())
        else None
    )


def counter_difference(before: dict[str, int] | None, after: dict[str, int] | None) -> dict[str, int] | None:
    """Returns the difference of two readings; None if one is missing or the engine was restarted between them."""
    if before is None or after is None or any(after[name] < before[name] for name in before):
        return None
    return {name: after[name] - before[name] for name in before}


class ConversationUsage:
    """Token usage of both sides, from their answers or, where available, the counters of their engines.

    `sides` holds, by name, the usage and the URL of the engine, if any. The counters of a shared engine include other
    clients.
    """

    def __init__(self, sides: Mapping[str, tuple[SideUsage, str | None]]) -> None:
        self.sides = sides
        self._before: dict[str, dict[str, int] | None] = {}

    async def begin(self) -> None:
        self._before = await self._counters()

    async def end(self) -> dict[str, Any]:
        after = await self._counters()
        return {
            name: side.report(counter_difference(self._before[name], after[name]))
            for name, (side, _) in self.sides.items()
        }

    async def _counters(self) -> dict[str, dict[str, int] | None]:
        return {name: await engine_counters(url) if url else None for name, (_, url) in self.sides.items()}
