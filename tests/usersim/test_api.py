"""The public functions as a stranger calls them: plain functions, strings, messages, threads, callbacks."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import pydantic
import pytest

import usersim
from usersim.errors import ConfigError, UsersimError
from usersim.testing import ScriptedAssistant, ScriptedUser
from usersim.types import Conversation, Facet, Goal, Persona, Turn, UserProfile, UserTurn
from usersim.users import background_loop as background
from usersim.users.plain_functions import as_assistant, as_user
from usersim.users.policies import with_policy
from usersim.users.simulate import Case, simulate


def texts(made: Conversation) -> list[str]:
    return [turn.text for turn in made.turns]


# -- one loop ------------------------------------------------------------------------------------------


def test_threads_that_call_first_at_the_same_time_share_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made = asyncio.new_event_loop

    def slowly() -> asyncio.AbstractEventLoop:
        time.sleep(0.05)  # all threads are inside by then
        return made()

    monkeypatch.setattr(asyncio, "new_event_loop", slowly)
    monkeypatch.setattr(background, "_background", background._Background())
    loops: list[asyncio.AbstractEventLoop] = []

    async def here() -> None:
        loops.append(asyncio.get_running_loop())

    threads = [threading.Thread(target=lambda: background.run(here())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loops) == 8
    assert len(set(loops)) == 1


def test_a_call_that_would_wait_for_itself_is_refused() -> None:
    def watch(turn: Turn | None, said: UserTurn | None) -> None:
        usersim.sample(goal="g", user=ScriptedUser("hi"))

    with pytest.raises(UsersimError, match="await the async function"):
        usersim.converse(ScriptedAssistant("yo"), user=ScriptedUser("hi"), watch=watch)


def test_an_interrupt_ends_what_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Interrupted:
        def __init__(self, future: Any) -> None:
            self.cancel = future.cancel

        def result(self) -> None:
            raise KeyboardInterrupt

    begun = asyncio.run_coroutine_threadsafe
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", lambda *args: Interrupted(begun(*args)))
    with pytest.raises(KeyboardInterrupt):
        background.run(forever())
    monkeypatch.undo()
    background.run(asyncio.sleep(0))
    assert ended.wait(30)


# -- plain functions -----------------------------------------------------------------------------------


def test_an_assistant_may_be_any_function_of_the_turns() -> None:
    async def asynchronous(turns: Sequence[Turn]) -> str:
        return f"re {turns[-1].text}"

    assistants: list[Any] = [
        lambda turns: f"re {turns[-1].text}",
        asynchronous,
        lambda turns: asynchronous(turns),
        ScriptedAssistant("re hi"),
    ]
    for assistant in assistants:
        assert texts(usersim.converse(assistant, goal="g", user=ScriptedUser("hi"))) == ["hi", "re hi"]


def test_an_assistant_is_told_what_it_takes() -> None:
    told: list[tuple[str | None, int | None]] = []

    def assistant(turns: Sequence[Turn], system: str | None = None, **rest: Any) -> str:
        told.append((system, rest["seed"]))
        return "yo"

    usersim.converse(assistant, user=ScriptedUser("hi"), system="be brief", seed=1)
    assert told == [("be brief", 1 * 1_009 + 1 * 7_919)]  # of turn 1


def test_what_cannot_be_an_assistant_is_said_before_a_turn_is_drawn() -> None:
    user = ScriptedUser("hi")
    with pytest.raises(ConfigError, match="has no `system` parameter"):
        usersim.converse(lambda turns: "yo", user=user, system="be brief")
    with pytest.raises(ConfigError, match="not a function"):
        usersim.converse("gpt-4o-mini", user=user)  # type: ignore[arg-type]
    assert user.heard == []


@pytest.mark.parametrize(
    ("assistant", "why"),
    [
        (lambda turns: {"content": "yo"}, "returned a dict"),
        (lambda turns: next(iter(())), "no more items"),
    ],
)
def test_an_assistant_that_says_no_text_is_one_readable_error(assistant: Any, why: str) -> None:
    with pytest.raises(UsersimError, match=why):
        usersim.converse(assistant, user=ScriptedUser("hi"))


def bye(profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None) -> UserTurn:
    words = "" if turns else f"{profile.goal and profile.goal.summary}"
    return UserTurn(
        text=words, ends=bool(turns), end_probability=0, finish="stop", logprob=0, tokens=0, seed=seed
    )


def test_a_user_may_be_a_plain_function_everywhere() -> None:
    assert usersim.sample(goal="buy tea", user=bye).text == "buy tea"
    assert texts(usersim.converse(lambda turns: "ok", goal="buy tea", user=bye)) == ["buy tea", "ok"]
    assert asyncio.run(with_policy(bye, "unclear")(UserProfile(goal="buy tea"), [])).text == "buy tea"
    case = Case("a", UserProfile(goal=Goal("sew")), 0)
    outcome = asyncio.run(simulate(bye, lambda turns: "ok", [case], max_user_turns=2, seed=0, source="s"))
    assert [texts(made) for made in outcome.conversations] == [["sew", "ok"]]
    with pytest.raises(ConfigError, match="neither a user nor a function"):
        usersim.sample(goal="x", user="userlm")  # type: ignore[arg-type]


def test_what_is_async_already_is_left_as_it_is() -> None:
    user, assistant = ScriptedUser("hi"), ScriptedAssistant("yo")
    assert as_user(user) is user
    assert as_assistant(assistant, system="s") is assistant


# -- many at once --------------------------------------------------------------------------------------


def test_many_requests_in_every_shape() -> None:
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    made = usersim.sample_many(
        [
            "a",
            Goal("b"),
            UserProfile(goal="c"),
            ("d", []),
            (UserProfile(goal="e"), history),
            {"goal": "f", "persona": "terse", "turns": history},
            {"gaol": "g"},
            3,  # type: ignore[list-item]
        ],
        user=bye,
        seed=10,
    )
    *turns, misspelt, number = made
    assert [(turn.text, turn.seed) for turn in turns if isinstance(turn, UserTurn)] == [
        *(("a", 10), ("b", 11), ("c", 12), ("d", 13), ("", 14), ("", 15)),
    ]
    assert isinstance(misspelt, ConfigError)
    assert "request 6: 'gaol'" in str(misspelt)
    assert isinstance(number, ConfigError)


# -- histories -----------------------------------------------------------------------------------------


class Message(pydantic.BaseModel):
    """As client libraries have them."""

    role: str
    content: str | None
    tool_calls: list[dict[str, str]] | None = None


def test_a_history_is_what_the_person_saw() -> None:
    turns = usersim.as_turns(
        [
            {"role": "system", "content": "You sell shoes."},
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "boots"}, {"type": "text", "text": "?"}]},
            {"role": "assistant", "content": "Let me look."},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            {"role": "tool", "content": "[]"},
            Message(role="assistant", content="", tool_calls=[{"id": "2"}]),
            {"role": "tool", "content": None},
            Message(role="assistant", content="None left."),
            Turn(role="user", text="bye"),
            {"role": "assistant", "text": "Bye!"},
        ]
    )
    assert [(turn.role, turn.text) for turn in turns] == [
        ("user", "boots?"),
        ("assistant", "Let me look.\n\nNone left."),
        ("user", "bye"),
        ("assistant", "Bye!"),
    ]


def test_what_no_tool_parts_stays_apart() -> None:
    """The renderer then refuses it, instead of two turns becoming one silently."""
    twice = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert len(usersim.as_turns(twice)) == 2


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "human", "content": "x"}, "turn 1: needs role user or assistant, got 'human'"),
        ({"content": "x"}, "turn 1: needs role user or assistant, got None"),
        ({"role": "user", "content": None}, "turn 1: needs a text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "turn 1: needs a text"),
        ("hello", "turn 1: needs role"),
    ],
)
def test_what_is_no_message_is_named(message: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        usersim.as_turns([Turn(role="user", text="x"), message])


# -- goals and personas --------------------------------------------------------------------------------


def test_strings_stand_for_records() -> None:
    goal = Goal("cook", facets=["no oven", Facet("vegan", turn=2)])
    assert goal == Goal.model_validate(
        {"summary": "cook", "facets": ["no oven", {"text": "vegan", "turn": 2}]}
    )
    assert [facet.text for facet in goal.facets] == ["no oven", "vegan"]
    assert UserProfile(goal="cook", persona="terse") == UserProfile(
        goal=Goal("cook"), persona=Persona("terse")
    )
    assert usersim.as_profile("cook", "terse") == UserProfile(goal=Goal("cook"), persona=Persona("terse"))
    assert usersim.as_profile(UserProfile(goal=goal)) == UserProfile(goal=goal)
    assert usersim.as_profile(" ", " ") == UserProfile()
    with pytest.raises(ConfigError, match="its own persona"):
        usersim.as_profile(UserProfile(), "terse")


def test_a_misspelt_field_of_a_goal_is_named() -> None:
    with pytest.raises(pydantic.ValidationError, match="summry"):
        Goal.model_validate({"summry": "x"})
    with pytest.raises(pydantic.ValidationError, match=r"goal\.facets\.0\.tixt"):
        UserProfile.model_validate({"goal": {"summary": "x", "facets": [{"tixt": "y"}]}})


# -- what an editor shows ------------------------------------------------------------------------------


def test_completion_and_help_say_what_there_is() -> None:
    assert set(usersim.__all__) <= set(dir(usersim))
    for name in ("sample", "sample_many", "converse", "connect"):
        function = getattr(usersim, name)
        said = inspect.getdoc(function) or ""
        missing = [parameter for parameter in inspect.signature(function).parameters if parameter not in said]
        assert missing == [], name


def test_a_plain_function_that_exits_leaves_the_loop_running() -> None:
    reply = as_assistant(lambda turns: sys.exit(3))
    with pytest.raises(SystemExit):
        background.run(reply([]))
    assert background.run(asyncio.sleep(0, "still here")) == "still here"
