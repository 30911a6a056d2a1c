"""Killed at any byte, a rollout goes on as if nothing had been: nothing is simulated again, nothing differs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from collab_train.contexts import Context
from collab_train.rollout.accounting.results import ContextMR, Future
from collab_train.rollout.cache.cache_keys import folder_digest
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.simulation.gather import gather
from collab_train.rollout.simulation.rollout import Rollout, RolloutConfig
from usersim.api import load
from usersim.api import run as run_on_one_loop
from usersim.chat_models.openai_chat import ChatSettings
from usersim.errors import BackendError
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.types import Facet, Goal, Turn, UserProfile
from usersim.users.protocols import Sampling

CONFIG = RolloutConfig(w=2, n=3, concurrency=4, retries=0)


def contexts(count: int = 2) -> list[Context]:
    goal = Goal(summary="plan a trip", facets=(Facet(text="by train"),))
    return [
        Context(
            id=f"c{number}",
            turns=(Turn(role="user", text=f"plan trip {number}"),),
            profile=UserProfile(goal=goal),
            candidates=("Go by train.", "Fly there, it is faster."),
        )
        for number in range(count)
    ]


def rewards(user: Any, assistant: Any, path: Path) -> tuple[list[ContextMR], Rollout]:
    async def run() -> tuple[list[ContextMR], Rollout]:
        rollout = Rollout(user, assistant, CONFIG, journal=Journal(path, Future), cache_key="them")
        made = await gather(rollout.reward(context) for context in contexts())
        return [one.result for one in made], rollout

    return run_on_one_loop(run())


def figures(results: list[ContextMR]) -> list[Any]:
    """Everything but the seconds."""
    return [
        candidate.model_dump(exclude={"cost": {"seconds"}})
        for result in results
        for candidate in result.candidates
    ]


def said(path: Path) -> dict[str, Any]:
    return {future.key: future.conversation for future in Journal(path, Future).read()}


def test_killed_anywhere_the_local_models_say_exactly_the_same(
    tiny_userlm: Path, tiny_base: Path, tmp_path: Path
) -> None:
    from usersim.chat_models.local_chat import LocalChat

    user = load(tiny_userlm, sampling=Sampling(max_tokens=6))
    assistant = LocalChat.from_pretrained(tiny_base, settings=ChatSettings(max_tokens=6))
    whole = tmp_path / "whole.jsonl"
    undisturbed, _ = rewards(user, assistant, whole)
    content = whole.read_bytes()
    assert content.count(b"\n") == 12
    finished = sum(c.n for result in undisturbed for c in result.candidates)
    assert finished >= 6
    for cut in random.Random(0).sample(range(len(content)), 3):
        path = tmp_path / f"cut-{cut}.jsonl"
        path.write_bytes(content[:cut])
        kept = content[: content[:cut].rfind(b"\n") + 1]
        again, rollout = rewards(user, assistant, path)
        assert figures(again) == figures(undisturbed)
        assert path.read_bytes().startswith(kept)
        assert rollout.resumed == sum(b'"error":' not in line for line in kept.splitlines())
        assert said(path) == said(whole)


def test_killed_at_any_byte_only_what_is_missing_is_simulated(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    lines = ["plan", "tell me more \u2028 please", "und jetzt auf Deutsch, schöne Grüße"]
    undisturbed, _ = rewards(ScriptedUser(*lines), ScriptedAssistant("By train, naïve\u2028ly."), whole)
    content = whole.read_bytes()
    for cut in range(0, len(content) + 1, 331):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:cut])
        user = ScriptedUser(*lines)
        again, rollout = rewards(user, ScriptedAssistant("By train, naïve\u2028ly."), path)
        assert figures(again) == figures(undisturbed)
        assert rollout.resumed == content[:cut].count(b"\n")
        assert len(user.heard) == 2 * (12 - rollout.resumed)
        assert path.read_bytes().count(b"\n") == 12


SLOW = """
import asyncio, sys
sys.path.insert(0, {tests!r})
import test_resume
from usersim.testing import ScriptedAssistant, ScriptedUser

class Slow(ScriptedAssistant):
    async def __call__(self, turns, *, system=None, seed=None):
        await asyncio.sleep(0.05)
        return await super().__call__(turns, system=system, seed=seed)

test_resume.rewards(ScriptedUser("a", "b", "c"), Slow("By train."), test_resume.Path({path!r}))
"""


def test_a_process_killed_with_sigkill_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    script = SLOW.format(tests=str(Path(__file__).parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[3])
    until = time.monotonic() + 60
    while not (path.is_file() and path.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    content = path.read_bytes()
    kept = content[: content.rfind(b"\n") + 1]
    assert 3 <= kept.count(b"\n") < 12
    again, rollout = rewards(ScriptedUser("a", "b", "c"), ScriptedAssistant("By train."), path)
    undisturbed, _ = rewards(
        ScriptedUser("a", "b", "c"), ScriptedAssistant("By train."), tmp_path / "other.jsonl"
    )
    assert rollout.resumed == kept.count(b"\n")
    assert path.read_bytes().startswith(kept)
    assert figures(again) == figures(undisturbed)


def test_other_weights_in_the_same_folder_are_another_engine(tiny_base: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_base, copy)
    assert folder_digest(copy) == folder_digest(tiny_base)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert folder_digest(copy) != folder_digest(tiny_base)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(BackendError, match="cannot be written"):
        rewards(ScriptedUser("a"), ScriptedAssistant("x"), tmp_path / "blocked" / "samples.jsonl")
