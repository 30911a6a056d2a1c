"""Rewards in one window from the futures of another: equal to a run of its own, and nothing said twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from collab_train.contexts import Context
from collab_train.rollout.accounting.results import ContextMR, Future
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.cache.windows import copy_futures
from collab_train.rollout.simulation.rollout import RolloutConfig, multiturn_rewards
from collab_train.trainers.pairs import PairsConfig
from usersim.errors import ConfigError
from usersim.storage.runs import RunDir
from usersim.types import Facet, Goal, Turn, UserProfile, UserTurn

LEAVES_AFTER = {"Stay short.": 1}
CANDIDATES = ("What may it cost?", "Stay short.", "By train.")


class Seeded:
    """Says its seed, so that a turn from another seed is another turn; leaves early after some candidates."""

    name = "seeded"

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        self.asked += 1
        spoken = sum(turn.role == "user" for turn in turns)
        ends = spoken > LEAVES_AFTER.get(turns[1].text, 9)
        text = "" if ends else f"350 euros, says {seed} at {spoken}"
        return UserTurn(
            text=text, ends=ends, end_probability=float(ends), finish="stop", logprob=0.0, tokens=5, seed=seed
        )


class Answering:
    def __init__(self) -> None:
        self.asked = 0

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        self.asked += 1
        return f"Take the train by {seed}. {turns[-1].text}"


def context() -> Context:
    goal = Goal(summary="plan a trip", facets=(Facet(text="at most 350 euros"), Facet(text="by train")))
    return Context(
        id="c",
        turns=(Turn(role="user", text="plan a trip"),),
        profile=UserProfile(goal=goal),
        candidates=CANDIDATES,
        phrases=(("350 euro*",), ("train",)),
    )


def rewards(w: int, journal: Path) -> tuple[list[ContextMR], int]:
    """And how many turns were said for them."""
    user, assistant = Seeded(), Answering()
    config = RolloutConfig(w=w, n=2, token_penalty=0.01, retries=0)
    made = multiturn_rewards([context()], user, assistant, config, journal=Journal(journal, Future))
    return asyncio.run(made), user.asked + assistant.asked


def said(results: list[ContextMR]) -> list[object]:
    return [(c.text, c.rewards, c.components, c.n) for c in results[0].candidates]


@pytest.mark.parametrize("w", [0, 1, 2])
def test_a_shorter_window_is_cut_from_a_longer_one(w: int, tmp_path: Path) -> None:
    longer, _ = rewards(3, tmp_path / "long.jsonl")
    own, _ = rewards(w, tmp_path / "own.jsonl")
    from_longer, turns = rewards(w, tmp_path / "long.jsonl")
    assert turns == 0
    assert said(from_longer) == said(own) != said(longer)
    assert said(rewards(3, tmp_path / "long.jsonl")[0]) == said(longer)


@pytest.mark.parametrize(("w", "further"), [(0, 3), (1, 3), (2, 3), (1, 2)])
def test_a_longer_window_goes_on_from_a_shorter_one(w: int, further: int, tmp_path: Path) -> None:
    before, turns_before = rewards(w, tmp_path / "short.jsonl")
    own, turns_own = rewards(further, tmp_path / "own.jsonl")
    from_shorter, turns = rewards(further, tmp_path / "short.jsonl")
    assert said(from_shorter) == said(own) != said(before)
    # Nothing is said twice: only the first of the two futures exists without a window.
    assert turns == turns_own - turns_before
    assert said(rewards(w, tmp_path / "short.jsonl")[0]) == said(before)
    assert rewards(further, tmp_path / "short.jsonl")[1] == 0


def test_a_user_who_left_is_not_asked_again(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    rewards(2, journal)
    ended = {f.conversation.ended_by for f in Journal(journal, Future).read() if f.conversation}
    assert ended == {"user", "turn_cap"}
    rewards(3, journal)
    left = [f for f in Journal(journal, Future).read() if f.conversation and f.candidate == 1]
    assert len(left) == 2


def test_a_run_begins_with_the_futures_of_another(tmp_path: Path) -> None:
    first = RunDir(tmp_path / "first", PairsConfig().scoring)
    (first.path / "candidates.jsonl").write_text("a\n", encoding="utf-8")
    (first.path / "samples.jsonl").write_text("b\n", encoding="utf-8")
    second = RunDir(tmp_path / "second", PairsConfig(w=3, reuse=str(first.path)).scoring)
    copy_futures(second, str(first.path))
    assert (second.path / "samples.jsonl").read_text(encoding="utf-8") == "b\n"
    (second.path / "samples.jsonl").write_text("b\nmore\n", encoding="utf-8")
    copy_futures(second, str(first.path))
    assert (second.path / "samples.jsonl").read_text(encoding="utf-8") == "b\nmore\n"
    with pytest.raises(ConfigError, match=r"reuse: .*nowhere.*candidates\.jsonl.* is not there"):
        copy_futures(second, str(tmp_path / "nowhere"))
