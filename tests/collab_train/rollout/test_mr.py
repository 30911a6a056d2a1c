"""Multi-turn collection along the best replies, its pairs and paths, and the report of a run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from collab_train.contexts import Context
from collab_train.rollout.accounting.results import Future
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.simulation.best_path import PathStep, best_path, collect
from collab_train.rollout.simulation.candidates import Candidate, Candidates
from collab_train.rollout.simulation.rollout import Rollout, RolloutConfig
from collab_train.trainers.pairs import PairsConfig, build_pairs
from usersim.__main__ import main
from usersim.errors import BackendError
from usersim.testing import ScriptedUser
from usersim.types import Facet, Goal, Turn, UserProfile, UserTurn

OPENING = Turn(role="user", text="plan a trip")
GOAL = Goal(summary="plan a trip", facets=(Facet(text="by train"), Facet(text="at most 350 euros")))
CONTEXT = Context(
    id="c",
    turns=(OPENING,),
    profile=UserProfile(goal=GOAL),
    phrases=(("by train",), ("350 euro*",)),
    system="be brief",
    split="train",
)


class Planner:
    """Its candidates: one that serves a facet more than the turn before, and one that serves nothing."""

    def __init__(self) -> None:
        self.heard = list[tuple[Turn, ...]]()

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        self.heard.append(tuple(turns))
        last = turns[-1].text
        if "?" in last:  # within a window
            return "fine"
        good = ("Go by train.", "It costs 350 euros.", "Enjoy it.")[len(turns) // 2]
        return good if (seed or 0) % 2 else "Hm."


class Asking(ScriptedUser):
    """Says something of its own in every future."""

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        said = await super().__call__(profile, turns, seed=seed)
        return said.model_copy(update={"text": said.text and f"{said.text} {seed}?"})


def collected(
    user: Any, assistant: Any, *, turns: int, path: Path | None = None, count: int = 6
) -> tuple[list[PathStep], Rollout]:
    async def run() -> tuple[list[PathStep], Rollout]:
        config = RolloutConfig(w=1, n=2, retries=0, token_penalty=0.001)
        journal = Journal(path / "samples.jsonl", Future) if path else None
        rollout = Rollout(user, assistant, config, journal=journal)
        kept = Journal(path / "candidates.jsonl", Candidate) if path else None
        candidates = Candidates(assistant, count=count, seed=0, gate=rollout.gate, journal=kept)
        (steps,) = await collect([CONTEXT], rollout, candidates, turns=turns)
        return steps, rollout

    return asyncio.run(run())


class Turns(Planner):
    """As a planner whose replies follow the number of user turns, whatever they say."""

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        self.heard.append(tuple(turns))
        good = ("Go by train.", "It costs 350 euros.", "Enjoy it.", "Bye.")[len(turns) // 2]
        return good if (seed or 0) % 2 else "Hm."


def test_the_winners_first_future_is_the_next_turn() -> None:
    user = Asking("plan a trip", "what does it cost", "and then")
    steps, _ = collected(user, Turns(), turns=3)
    assert [step.context.id for step in steps] == ["c", "c/2", "c/3"]
    first, second = steps[0], steps[1]
    best = first.result.best
    assert best is not None
    assert best.text == "Go by train."
    assert second.context.turns[:2] == (OPENING, Turn(role="assistant", text="Go by train."))
    # The same words that the first of the winner's futures began with: nobody was asked again.
    heard = [h for h in user.heard if h == second.context.turns[:2]]
    assert len(heard) == 2
    assert second.context.turns[2].text.startswith("what does it cost ")
    assert second.result.best is not None
    assert second.result.best.text == "It costs 350 euros."
    pairs = build_pairs([s.context for s in steps], [s.result for s in steps], margin=0.02)
    assert [pair.context for pair in pairs.pairs[:2]] == ["c", "c/2"]
    assert [m.role for m in pairs.pairs[1].prompt] == ["system", "user", "assistant", "user"]


def test_the_best_path_is_a_conversation_for_sft() -> None:
    steps, _ = collected(Asking("plan a trip", "what does it cost"), Turns(), turns=3)
    path = best_path(steps)
    assert path is not None
    # The user leaves after the second reply.
    assert path.ended_by == "user"
    assert [m.role for m in path.prompt] == ["system", "user"]
    assert [m.role for m in path.chosen] == ["assistant", "user", "assistant"]
    assert path.chosen[0].content == "Go by train."
    assert path.chosen[2].content == "It costs 350 euros."
    assert path.chosen[1].content.startswith("what does it cost")
    assert len(path.mrs) == 2
    assert (path.context, path.goal, path.split) == ("c", "plan a trip", "train")


def test_a_lost_turn_ends_the_path_and_keeps_what_there_is() -> None:
    class Breaks(Turns):
        async def __call__(
            self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
        ) -> str:
            if len(turns) == 3 and "?" in turns[-1].text and len(self.heard) > 20:
                raise BackendError("gone")
            return await super().__call__(turns, system=system, seed=seed)

    assistant = Breaks()
    steps, _ = collected(Asking("plan a trip", "what does it cost", "more"), assistant, turns=1)
    alone = best_path(steps)
    assert alone is not None
    assert alone.ended_by == "turns"
    assistant.heard += [()] * 21
    steps, _ = collected(Asking("plan a trip", "what does it cost", "more"), assistant, turns=2)
    assert best_path(steps) is None  # every future of the first turn failed


def test_a_collection_is_resumed_without_asking_anybody(tmp_path: Path) -> None:
    lines = ("plan a trip", "what does it cost", "and then")
    first, _ = collected(Asking(*lines), Turns(), turns=2, path=tmp_path)
    user, assistant = Asking(*lines), Turns()
    again, rollout = collected(user, assistant, turns=2, path=tmp_path)
    assert (user.heard, assistant.heard) == ([], [])
    assert [step.result for step in again] == [step.result for step in first]
    assert rollout.resumed == sum(c.n for step in first for c in step.result.candidates)
    longer, _ = collected(user, assistant, turns=3, path=tmp_path)
    assert [step.result for step in longer[:2]] == [step.result for step in first]
    assert user.heard


def test_turns_need_a_user() -> None:
    with pytest.raises(ValueError, match="w=1 or more"):
        PairsConfig(turns=2, w=0)


def test_pairs_command_writes_paths_and_says_what_it_took(
    tmp_path: Path, tiny_userlm: Path, tiny_base: Path
) -> None:
    rows = [
        {
            "id": f"c{i}",
            "turns": [{"role": "user", "text": "plan a trip"}],
            "goal": {"summary": "plan a trip", "facets": [{"text": "by train"}]},
            "candidates": ["Go by train.", "Go by plane, which is faster."],
            "split": split,
        }
        for i, split in enumerate(["train", "train", "heldout"])
    ]
    (tmp_path / "contexts.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    (tmp_path / "config.toml").write_text("w = 1\nn = 2\nturns = 2\n", encoding="utf-8")
    out, report = tmp_path / "run", tmp_path / "report.json"
    words = [
        f"contexts='{tmp_path / 'contexts.jsonl'}'",
        f"user='{tiny_userlm}'",
        f"assistant='{tiny_base}'",
        f"out='{out}'",
        "user_tokens=10",
        "assistant_tokens=10",
    ]
    assert main(["collab", "pairs", str(tmp_path / "config.toml"), *words, "--json-out", str(report)]) == 0
    summary = json.loads(report.read_text(encoding="utf-8"))
    paths = [json.loads(line) for line in (out / "paths.jsonl").read_text(encoding="utf-8").splitlines()]
    assert summary["paths"]["train"] == len(paths)
    assert paths[0]["prompt"] == [{"role": "user", "content": "plan a trip"}]
    assert paths[0]["chosen"][0] == {"role": "assistant", "content": "Go by train."}
    assert {m["role"] for m in paths[0]["chosen"][1::2]} <= {"user"}
    assert str(out / "paths_heldout.jsonl") in summary["files"]
    tokens = summary["tokens"]
    for side in ("user", "assistant"):
        assert tokens[side]["prefilled_tokens"] == tokens[side]["prompt_tokens"] > 0
        assert 0 < tokens[side]["share_of_floor"] <= 1
    assert tokens["user"]["decoded_tokens"] >= summary["user_tokens"]
    assert sum(summary["failures"].values()) >= summary["futures_failed"]
