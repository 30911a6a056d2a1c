"""What a prompted user is told, and what becomes of what it says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fake_endpoint import Reply, endpoint
from usersim.chat_models.endpoint_chat import EndpointChat
from usersim.errors import BackendError
from usersim.types import Facet, Goal, Persona, Style, Turn, UserProfile, UserTurn
from usersim.users.prompted import BY_NAME, OPENING, PROMPTS, STOP, PromptedUser, cleaned

PROFILE = UserProfile(
    goal=Goal(summary="cook soup", facets=(Facet(text="without onions"),)),
    persona=Persona(description="a student", style=Style(words_per_turn=4), language="de"),
)
TURNS = (Turn(role="user", text="soup?"), Turn(role="assistant", text="Which one?"))


class Line:
    """Says one thing and remembers what it was sent."""

    def __init__(self, text: str) -> None:
        self.text, self.system, self.messages = text, "", list[dict[str, str]]()

    async def complete(
        self, messages: list[dict[str, str]], *, system: str | None = None, seed: int | None = None
    ) -> str:
        self.system, self.messages = system or "", messages
        return self.text

    async def aclose(self) -> None:
        """Nothing to close."""


def say(text: str, *, prompt: str = "careful") -> tuple[UserTurn, Line]:
    line = Line(text)
    return asyncio.run(PromptedUser(line, prompt=BY_NAME[prompt])(PROFILE, TURNS, seed=1)), line


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_prompt_tells_goal_facets_person_style_and_how_to_leave(name: str) -> None:
    _, line = say("ok", prompt=name)
    for told in ("cook soup", "without onions", "a student", "around 4 words", STOP):
        assert told in line.system
    assert not {"{", "}"} & set(line.system)


def test_the_careful_prompt_names_the_language_and_small_models_are_spared_it() -> None:
    assert "Language of the person's messages: de." in say("ok")[1].system
    assert "careful" not in PROMPTS


def test_sides_are_flipped_and_the_model_opens_to_an_empty_window() -> None:
    _, line = say("tomato")
    assert [m["role"] for m in line.messages] == ["user", "assistant", "user"]
    assert (line.messages[0]["content"], line.messages[1]["content"]) == (OPENING, "soup?")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ('"tomato, please"', "tomato, please"),
        ("User: tomato", "tomato"),
        ("**User:** tomato", "tomato"),
        ('Human: "tomato"', "tomato"),
        ('say "tomato" or "leek"', 'say "tomato" or "leek"'),
        ("user: ", "user:"),
        ("the user: me", "the user: me"),
    ],
)
def test_form_around_the_words_goes_and_words_stay(raw: str, text: str) -> None:
    assert cleaned(raw) == text
    assert say(raw)[0].text == text


@pytest.mark.parametrize("raw", [STOP, f"{STOP}.", f"thanks {STOP}", f'"{STOP}"'])
def test_the_stop_mark_ends_it_without_words(raw: str) -> None:
    said, _ = say(raw)
    assert (said.ends, said.text, said.finish, said.end_probability) == (True, "", "end", 1.0)


def test_a_turn_without_words_is_an_error_that_may_pass() -> None:
    with pytest.raises(BackendError) as caught:
        say('""')
    assert caught.value.retryable


def chat(answer: Any) -> tuple[str, EndpointChat, list[dict[str, Any]]]:
    with endpoint(answer) as fake:
        made = EndpointChat(fake.url, model="m")

        async def twice() -> str:
            try:
                await made.complete([{"role": "user", "content": "x"}])
                return await made.complete([{"role": "user", "content": "x"}])
            finally:
                await made.aclose()

        return asyncio.run(twice()), made, fake.bodies


def test_an_endpoint_that_refuses_parameters_is_asked_without_them_and_remembered() -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        if "max_tokens" in body:
            return Reply(status=400, raw="'max_tokens' is not supported, use 'max_completion_tokens'")
        if "temperature" in body:
            return Reply(status=400, raw="'temperature' does not support 0.7")
        return Reply("<think>soup, then</think>\ntomato", finish="length")

    text, made, bodies = chat(answer)
    assert text == "tomato"
    assert len(bodies) == 4  # refused twice, answered, answered
    assert bodies[-1].keys() == {"model", "messages", "max_completion_tokens"}
    assert made.counts() == {"replies": 2, "cut": 2, "prompt_tokens": 20, "completion_tokens": 10}


def test_another_refusal_is_an_error() -> None:
    with pytest.raises(BackendError, match="HTTP 400: no such model"):
        chat(lambda body, number: Reply(status=400, raw="no such model"))


def test_a_reply_that_is_all_thinking_is_empty() -> None:
    with pytest.raises(BackendError, match="empty reply"):
        chat(lambda body, number: Reply("<think>I had better"))
