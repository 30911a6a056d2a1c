"""The one conversation loop, with scripted sides."""

from __future__ import annotations

import asyncio

import pytest

from usersim.errors import BackendError
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.types import Conversation, Turn, UserTurn
from usersim.users.dialogue import converse
from usersim.users.protocols import as_profile


def talk(user: ScriptedUser, assistant: ScriptedAssistant, **options: object) -> Conversation:
    return asyncio.run(converse(user, assistant, as_profile("g"), **options))  # type: ignore[arg-type]


def texts(conversation: Conversation) -> list[str]:
    return [turn.text for turn in conversation.turns]


def test_from_nothing_the_user_opens_and_leaves() -> None:
    made = talk(ScriptedUser("hi", "bye"), ScriptedAssistant("yo", "ok"))
    assert texts(made) == ["hi", "yo", "bye", "ok"]
    assert (made.ended_by, made.origin) == ("user", "simulated")


def test_at_the_cap_the_assistant_has_the_last_word() -> None:
    made = talk(ScriptedUser("a", "b", "c"), ScriptedAssistant("x"), max_user_turns=2)
    assert texts(made) == ["a", "x", "b", "x"]
    assert made.ended_by == "turn_cap"


def test_from_a_candidate_reply_the_user_speaks_next_and_only_new_turns_count() -> None:
    history = [Turn(role="user", text="a"), Turn(role="assistant", text="candidate")]
    made = talk(ScriptedUser("a", "b", "c"), ScriptedAssistant("x"), turns=history, max_user_turns=1)
    assert texts(made) == ["a", "candidate", "b", "x"]


def test_from_a_user_turn_the_assistant_speaks_next() -> None:
    made = talk(ScriptedUser("a"), ScriptedAssistant("x"), turns=[Turn(role="user", text="a")])
    assert texts(made) == ["a", "x"]
    assert made.ended_by == "user"


def test_a_window_of_nothing_changes_nothing() -> None:
    history = [Turn(role="user", text="a"), Turn(role="assistant", text="b")]
    made = talk(ScriptedUser("a", "c"), ScriptedAssistant("x"), turns=history, max_user_turns=0)
    assert texts(made) == ["a", "b"]


def test_the_assistant_sees_turns_and_system_but_no_profile() -> None:
    assistant = ScriptedAssistant("yo")
    talk(ScriptedUser("hi"), assistant, system="be brief")
    assert assistant.heard == [(Turn(role="user", text="hi"),)]


def seeds_of(seed: int) -> list[int | None]:
    seen: list[int | None] = []

    def watch(turn: Turn | None, said: UserTurn | None) -> None:
        if said is not None:
            seen.append(said.seed)

    talk(ScriptedUser("a", "b"), ScriptedAssistant("x"), seed=seed, watch=watch)
    return seen


def test_the_same_seed_gives_every_turn_the_same_seed_of_its_own() -> None:
    assert seeds_of(3) == seeds_of(3) != seeds_of(4)
    assert len(set(seeds_of(3))) == 3


def test_a_failure_is_the_callers_to_count() -> None:
    class Broken:
        async def __call__(self, turns: object, *, system: object = None, seed: object = None) -> str:
            raise BackendError("down", retryable=True)

    with pytest.raises(BackendError, match="down"):
        asyncio.run(converse(ScriptedUser("a"), Broken(), as_profile("g")))
