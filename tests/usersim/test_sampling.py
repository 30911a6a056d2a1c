"""Guards, ending and seeds, over prepared continuations."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.usersim.test_render import END, LEFT, renderer
from usersim.errors import GuardError
from usersim.sampling import EndPolicy, Guards, UserLM, as_profile, rejection
from usersim.testing import ScriptedSampler
from usersim.types import Goal, Turn

HISTORY = [Turn(role="user", text="Book me a table"), Turn(role="assistant", text="Where?")]


def said(*texts: str, **options: Any) -> tuple[UserLM, ScriptedSampler]:
    r = renderer()
    scripted = ScriptedSampler(
        *[[LEFT] if text == "(leaves)" else [*r.encode(text), END] for text in texts],
        end_probability=options.pop("end_probability", 0.1),
    )
    return UserLM(r, scripted, **options), scripted


def ask(user: UserLM, **options: Any) -> Any:
    return asyncio.run(user.sample(as_profile("eat out"), HISTORY, **options))


def test_a_turn_carries_text_end_probability_and_cost() -> None:
    user, _ = said("rome")
    turn = ask(user, seed=5)[0]
    assert (turn.text, turn.ends, turn.finish, turn.end_probability) == ("rome", False, "stop", 0.1)
    assert (turn.logprob, turn.tokens, turn.seed) == (-5.0, 5, 5)  # r o m e and the end of turn, a nat each


def test_the_end_is_a_token_not_a_string() -> None:
    user, _ = said("(leaves)")
    assert ask(user)[0].ends
    user, _ = said("<|endconversation|> is what I typed")
    assert not ask(user)[0].ends


def test_the_end_is_banned_before_the_first_user_turn() -> None:
    user, scripted = said("hi")
    asyncio.run(user.sample(as_profile("x"), []))
    assert scripted.banned == [[LEFT]]


@pytest.mark.parametrize(
    ("policy", "probability", "ends", "banned"),
    [
        (EndPolicy(mode="never"), 0.9, False, [LEFT]),
        (EndPolicy(mode="threshold", threshold=0.6), 0.59, False, [LEFT]),
        (EndPolicy(mode="threshold", threshold=0.6), 0.6, True, [LEFT]),
        (EndPolicy(mode="greedy"), 0.9, True, [LEFT]),
        (EndPolicy(mode="sample"), 0.9, False, []),
        (EndPolicy(mode="sample", min_user_turns=2), 0.9, False, [LEFT]),
        (EndPolicy(mode="threshold", threshold=0.1, min_user_turns=2), 0.9, False, [LEFT]),
    ],
)
def test_end_policies(policy: EndPolicy, probability: float, ends: bool, banned: list[int]) -> None:
    user, scripted = said("go on", end=policy, end_probability=probability)
    turn = ask(user)[0]
    assert (turn.ends, scripted.banned) == (ends, [banned])
    assert turn.text == ("" if ends else "go on")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("book me  a TABLE.", "repeat"),
        ("Eat out", "goal_copy"),
        ("As an AI language model, I cannot eat", "assistant_speak"),
        ("word " * 201, "too_long"),
        ("somewhere with pasta", None),
    ],
)
def test_guards(text: str, why: str | None) -> None:
    assert rejection(text, Goal(summary="eat out"), HISTORY, Guards()) == why


def test_a_long_run_of_the_goals_words_is_a_copy() -> None:
    goal = Goal(summary="write a short poem about the sea in winter for my aunt")
    guards = Guards(goal_run_words=5)
    assert rejection("pls write a short poem about the sea", goal, [], guards) == "goal_copy"
    assert rejection("a short poem about winter", goal, [], guards) is None


def test_rejected_attempts_are_drawn_anew_counted_and_told() -> None:
    user, scripted = said("", "book me a table", "rome")
    turn = ask(user, seed=1)[0]
    assert (turn.text, turn.rejected) == ("rome", ("empty", "repeat"))
    assert user.rejections == {"empty": 1, "repeat": 1}
    assert len(set(scripted.seeds)) == 3


def test_only_the_rejected_of_n_are_drawn_anew_and_order_is_kept() -> None:
    user, scripted = said("one", "", "three", "two")
    turns = ask(user, n=3, seed=0)
    assert [turn.text for turn in turns] == ["one", "two", "three"]
    assert len(scripted.prompts) == 2


def test_guards_fail_loudly_when_every_attempt_is_rejected() -> None:
    user, _ = said("", "", guards=Guards(attempts=2))
    with pytest.raises(GuardError, match="empty 2") as failure:
        ask(user)
    assert failure.value.reasons == {"empty": 2}


def test_guards_can_be_switched_off() -> None:
    off = Guards(empty=False, repeat=False, goal_copy=False, assistant_speak=False, max_words=None)
    assert rejection("", Goal(summary="eat out"), HISTORY, off) is None
    assert rejection("Book me a table", Goal(summary="eat out"), HISTORY, off) is None
