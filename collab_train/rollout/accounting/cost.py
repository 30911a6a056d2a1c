"""What both sides of the conversations took: tokens read, found in a cache, and sampled; and the floor for them."""

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


class Side:
    """One side. Everything that was sampled counts, also what a guard threw away."""

    def __init__(self) -> None:
        self.calls = self.prompt_tokens = self.decoded = 0
        self.cached: int | None = None
        """Of the prompts' tokens; None where nobody says."""
        self.floor: int | None = None
        """Of tokens to prefill, in blocks of 16 (`floor.PrefixCache`); None where the token ids are not known."""
        self._cache = PrefixCache()

    def add(self, prompt: int, decoded: int, *, cached: int | None = None) -> None:
        self.calls += 1
        self.prompt_tokens += prompt
        self.decoded += decoded
        if cached is not None:
            self.cached = (self.cached or 0) + cached

    def add_ids(self, prompt_ids: list[int], said: list[list[int]]) -> None:
        """What the floor is made of."""
        self.floor = (self.floor or 0) + self._cache.read(prompt_ids)
        for ids in said:
            self._cache.wrote(prompt_ids, ids)

    def report(self, counted: dict[str, int] | None = None) -> dict[str, Any]:
        """`counted`: the engine's own count, which stands where the answers say nothing."""
        cached = self.cached if counted is None else counted["cached"]
        prefilled = None if cached is None else self.prompt_tokens - cached
        if counted is not None:
            prefilled = counted["prefilled"]
        return {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "prefilled_tokens": prefilled,
            "cached_tokens": cached,
            "decoded_tokens": self.decoded if counted is None else counted["decoded"],
            "prefill_floor": self.floor,
            "share_of_floor": round(self.floor / prefilled, 4) if self.floor and prefilled else None,
        }


class CountedSampler:
    """A sampler of this process, which keeps nothing from one call to the next: all it reads is prefilled."""

    def __init__(self, sampler: Any, side: Side) -> None:
        self._sampler, self._side = sampler, side

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    async def sample(self, asked: Draw) -> list[Sampled]:
        sampled: list[Sampled] = await self._sampler.sample(asked)
        said = [one.token_ids for one in sampled]
        self._side.add(len(asked.prompt_ids), sum(map(len, said)), cached=0)
        self._side.add_ids(list(asked.prompt_ids), said)
        return sampled

    def stream(self, asked: Draw) -> AsyncGenerator[SampledPiece, None]:
        pieces: AsyncGenerator[SampledPiece, None] = self._sampler.stream(asked)
        return pieces

    async def aclose(self) -> None:
        await self._sampler.aclose()


class CountedChat(HttpChat):
    """Adds up the usage of its answers; a vLLM also says the token ids, and where asked to, what was cached."""

    side: Side | None = None
    _vllm: bool | None = None

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        if body is None or self.side is None:
            return await super()._request(method, path, body)
        if self._vllm is None:
            self._vllm = await self._is_vllm()
        answer = await super()._request(
            method, path, body | ({"return_token_ids": True} if self._vllm else {})
        )
        # An answer of another shape is for the caller to complain about.
        with contextlib.suppress(KeyError, TypeError, IndexError, AttributeError, ValueError):
            self._count(self.side, answer)
        return answer

    def _count(self, side: Side, answer: Any) -> None:
        usage, choice = answer.get("usage") or {}, answer["choices"][0]
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        side.add(
            int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), cached=cached
        )
        if answer.get("prompt_token_ids") and choice.get("token_ids"):
            side.add_ids(answer["prompt_token_ids"], [choice["token_ids"]])

    async def _is_vllm(self) -> bool:
        try:
            listed = await super()._request("GET", "/v1/models", None)
            return any(model.get("owned_by") == "vllm" for model in listed["data"])
        except BackendError as error:
            if error.retryable:
                raise
            return False
        except (KeyError, TypeError, AttributeError):
            return False


def counted(speaker: Any) -> Side:
    """What `speaker` takes from now on. A user behind an endpoint tells of the turns it gives out, not of those
    that its guards threw away."""
    side = Side()
    if isinstance(speaker, CountedChat):
        speaker.side = side
    elif isinstance(speaker, RemoteUser):
        _count_turns(speaker, side)
    elif hasattr(speaker, "sampler"):
        speaker.sampler = CountedSampler(speaker.sampler, side)
    return side


def _count_turns(user: RemoteUser, side: Side) -> None:
    plain = user.sample

    async def sample(*args: Any, **kwargs: Any) -> list[UserTurn]:
        turns = await plain(*args, **kwargs)
        side.add(turns[0].prompt_tokens, sum(turn.tokens for turn in turns))
        return turns

    user.sample = sample  # type: ignore[method-assign]


async def engine_counters(url: str) -> dict[str, int] | None:
    """What the vLLM at `url` has prefilled, found in its cache and decoded since its start; None if it does not say."""
    client, base = http_client(url.partition("#")[0], timeout_s=10)
    try:
        answer = await client.get(base + "/metrics")
    except httpx2.HTTPError:
        return None
    finally:
        await client.aclose()
    found = {
        name: re.findall(rf"^{line} (\S+)$", answer.text, re.MULTILINE) for name, line in COUNTERS.items()
    }
    return (
        {name: round(sum(map(float, values))) for name, values in found.items()}
        if all(found.values())
        else None
    )


def grown(before: dict[str, int] | None, after: dict[str, int] | None) -> dict[str, int] | None:
    """What came between two readings; None without both, or when the engine was started anew meanwhile."""
    if before is None or after is None or any(after[name] < before[name] for name in before):
        return None
    return {name: after[name] - before[name] for name in before}


class Spending:
    """Tokens of both sides: as their answers say, and where an engine tells, by its own count.

    `sides`: by name, the side and the URL of the engine behind it, if it has one. An engine that others use as well
    counts theirs, too.
    """

    def __init__(self, sides: Mapping[str, tuple[Side, str | None]]) -> None:
        self.sides = sides
        self._before: dict[str, dict[str, int] | None] = {}

    async def begin(self) -> None:
        self._before = await self._counters()

    async def end(self) -> dict[str, Any]:
        after = await self._counters()
        return {
            name: side.report(grown(self._before[name], after[name]))
            for name, (side, _) in self.sides.items()
        }

    async def _counters(self) -> dict[str, dict[str, int] | None]:
        return {name: await engine_counters(url) if url else None for name, (_, url) in self.sides.items()}
