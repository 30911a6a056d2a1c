"""Scripted stand-ins for tests of loops and faults. Never a substitute where the real model can run."""

from __future__ import annotations

from collections.abc import Sequence

from usersim.sampling import Draw, Sampled
from usersim.types import Turn, UserProfile, UserTurn


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
    """Gives out prepared continuations (token ids) in order; remembers prompts and bans."""

    def __init__(self, *continuations: list[int], end_probability: float = 0.1) -> None:
        self.continuations, self.end_probability = list(continuations), end_probability
        self.prompts, self.banned, self.seeds = (
            list[list[int]](),
            list[list[int]](),
            list[int | None](),
        )

    async def sample(self, asked: Draw) -> list[Sampled]:
        self.prompts.append(list(asked.prompt_ids))
        self.banned.append(list(asked.ban_ids))
        self.seeds.append(asked.seed)
        drawn = [self.continuations.pop(0) for _ in range(asked.n)]
        return [
            Sampled(
                token_ids=ids,
                logprobs=[-1.0] * len(ids),
                finish="stop" if ids and ids[-1] in asked.stop_ids else "length",
                end_probability=self.end_probability,
                end_is_likeliest=self.end_probability > 0.5,
            )
            for ids in drawn
        ]

    async def aclose(self) -> None:
        """Nothing to close."""
