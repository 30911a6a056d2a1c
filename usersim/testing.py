"""Scripted users, assistants and samplers for tests of loops and faults."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.protocols import Draw, Sampled, SampledPiece


class ScriptedUser:
    """User that says its lines in order, then leaves. `heard` records the history of every call."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.heard = list(lines), list[tuple[Turn, ...]]()

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        self.heard.append(tuple(turns))
        spoken = sum(turn.role == "user" for turn in turns)
        ends = spoken >= len(self.lines)
        text = "" if ends else self.lines[spoken]
        return UserTurn(
            text=text,
            ends=ends,
            end_probability=float(ends),
            finish="end" if ends else "stop",
            logprob=0.0,
            tokens=len(text.split()),
            seed=seed,
        )


class ScriptedAssistant:
    """Assistant that answers with its lines in a cycle. `heard` records the history of every call."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.heard = list(lines), list[tuple[Turn, ...]]()

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        self.heard.append(tuple(turns))
        return self.lines[(len(self.heard) - 1) % len(self.lines)]


class ScriptedSampler:
    """Sampler that returns prepared continuations (token ids) in order. `asked` records the requests."""

    def __init__(self, *continuations: list[int], end_probability: float = 0.1) -> None:
        self.continuations, self.end_probability = list(continuations), end_probability
        self.asked: list[Draw] = []
        self.closed_early = 0

    @property
    def prompts(self) -> list[list[int]]:
        return [list(request.prompt_ids) for request in self.asked]

    @property
    def banned(self) -> list[list[int]]:
        return [list(request.ban_ids) for request in self.asked]

    @property
    def seeds(self) -> list[int | None]:
        return [request.seed for request in self.asked]

    async def stream(self, request: Draw) -> AsyncGenerator[SampledPiece, None]:
        (whole,) = await self.sample(request)
        is_last = False
        try:
            for position, token in enumerate(whole.token_ids, start=1):
                is_last = position == len(whole.token_ids)
                yield SampledPiece(
                    token_ids=[token],
                    logprobs=[-1.0],
                    end_probability=whole.end_probability,
                    end_is_likeliest=whole.end_is_likeliest,
                    finish=whole.finish if is_last else None,
                )
        finally:
            self.closed_early += not is_last

    async def sample(self, request: Draw) -> list[Sampled]:
        self.asked.append(request)
        continuations = [self.continuations.pop(0) for _ in range(request.n)]
        return [
            Sampled(
                token_ids=ids,
                logprobs=[-1.0] * len(ids),
                finish="stop" if ids and ids[-1] in request.stop_ids else "length",
                end_probability=self.end_probability,
                end_is_likeliest=self.end_probability > 0.5,
                top_logprobs=[_tops(token, request.top_logprobs) for token in ids],
            )
            for ids in continuations
        ]

    async def aclose(self) -> None:
        """Nothing to close."""


def _tops(token: int, count: int) -> dict[int, float]:
    """Returns likeliest tokens: the sampled one, then the tokens from 0 on."""
    others = (other for other in range(count + 1) if other != token)
    return dict(zip([token, *others][:count], (-1.0 - rank for rank in range(count)), strict=True))
