"""Scripted stand-ins for tests of loops and faults. Never a substitute where the real model can run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.protocols import Draw, Sampled, SampledPiece


class ScriptedUser:
    """Says its lines in order, then leaves. `heard` keeps every history it was given."""

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
    """Answers with its lines in turn, again from the start when they run out."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.heard = list(lines), list[tuple[Turn, ...]]()

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        self.heard.append(tuple(turns))
        return self.lines[(len(self.heard) - 1) % len(self.lines)]


class ScriptedSampler:
    """Gives out prepared continuations (token ids) in order, a token at a time in a stream; remembers `asked`."""

    def __init__(self, *continuations: list[int], end_probability: float = 0.1) -> None:
        self.continuations, self.end_probability = list(continuations), end_probability
        self.asked: list[Draw] = []
        self.closed_early = 0

    @property
    def prompts(self) -> list[list[int]]:
        return [list(asked.prompt_ids) for asked in self.asked]

    @property
    def banned(self) -> list[list[int]]:
        return [list(asked.ban_ids) for asked in self.asked]

    @property
    def seeds(self) -> list[int | None]:
        return [asked.seed for asked in self.asked]

    async def stream(self, asked: Draw) -> AsyncGenerator[SampledPiece, None]:
        (whole,) = await self.sample(asked)
        over = False
        try:
            for place, token in enumerate(whole.token_ids, start=1):
                over = place == len(whole.token_ids)
                yield SampledPiece(
                    token_ids=[token],
                    logprobs=[-1.0],
                    end_probability=whole.end_probability,
                    end_is_likeliest=whole.end_is_likeliest,
                    finish=whole.finish if over else None,
                )
        finally:
            self.closed_early += not over

    async def sample(self, asked: Draw) -> list[Sampled]:
        self.asked.append(asked)
        drawn = [self.continuations.pop(0) for _ in range(asked.n)]
        return [
            Sampled(
                token_ids=ids,
                logprobs=[-1.0] * len(ids),
                finish="stop" if ids and ids[-1] in asked.stop_ids else "length",
                end_probability=self.end_probability,
                end_is_likeliest=self.end_probability > 0.5,
                top_logprobs=[_tops(token, asked.top_logprobs) for token in ids],
            )
            for ids in drawn
        ]

    async def aclose(self) -> None:
        """Nothing to close."""


def _tops(token: int, count: int) -> dict[int, float]:
    """The sampled one is the likeliest, and the tokens from 0 on follow."""
    others = (other for other in range(count + 1) if other != token)
    return dict(zip([token, *others][:count], (-1.0 - place for place in range(count)), strict=True))
