"""The real `openai` package against `/v1/chat/completions`, for the errors it raises and retries as for answers."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from usersim.errors import BackendError
from usersim.testing import ScriptedSampler
from usersim.users.protocols import Draw, Sampled

MESSAGES: list[Any] = [
    {"role": "system", "content": "Buy shoes. Say ###DONE### when you are done."},
    {"role": "user", "content": "Hi! How can I help you today?"},
]


@pytest.fixture
def client(start_server: Callable[..., str]) -> Iterator[Callable[..., openai.OpenAI]]:
    """`client(sampler, …)`: the package's client of an API server over it."""
    opened: list[openai.OpenAI] = []

    def connect(sampler: Any, *, max_retries: int = 0) -> openai.OpenAI:
        openai_client = openai.OpenAI(
            base_url=f"{start_server(sampler)}/v1", api_key="none", max_retries=max_retries, timeout=120
        )
        opened.append(openai_client)
        return openai_client

    yield connect
    for openai_client in opened:
        openai_client.close()


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "userlm", "messages": MESSAGES, **more})


def test_an_answer_has_everything_the_package_reads(client, words) -> None:
    answer = ask(client(ScriptedSampler(words("size 42"), words("red ones"))), n=2, seed=3)
    assert [choice.message.content for choice in answer.choices] == ["size 42", "red ones"]
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].end_of_conversation_prob == 0.1, "what OpenAI has no word for rides along"


def test_the_models_are_listed(client) -> None:
    assert "userlm" in [model.id for model in client(ScriptedSampler()).models.list()]


@pytest.mark.parametrize(
    ("request_fields", "kind"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError),
        ({"messages": []}, openai.BadRequestError),
        ({"temperature": 3}, openai.BadRequestError),
    ],
    ids=["model", "messages", "temperature"],
)
def test_a_refusal_is_the_packages_own_error_with_our_words(client, request_fields, kind) -> None:
    with pytest.raises(kind) as refusal:
        ask(client(ScriptedSampler()), **request_fields)
    assert refusal.value.body["message"] in str(refusal.value)
    assert isinstance(refusal.value.code, str)


class Flaky(ScriptedSampler):
    """Fails so often before it answers."""

    def __init__(self, *lines: list[int], failures: int, error: Exception) -> None:
        super().__init__(*lines)
        self.failures, self.error, self.calls = failures, error, 0

    async def sample(self, request: Draw) -> list[Sampled]:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return await super().sample(request)


def test_the_package_tries_again_what_may_succeed_later(client, words, monkeypatch) -> None:
    monkeypatch.setattr("serve.http.errors.RETRY_AFTER_S", (1, 1))
    sampler = Flaky(words("size 42"), failures=1, error=BackendError("gone", retryable=True))
    assert ask(client(sampler, max_retries=2)).choices[0].message.content == "size 42"
    assert sampler.calls == 2


def test_the_package_does_not_try_again_what_it_is_told_not_to(client) -> None:
    sampler = Flaky(failures=9, error=BackendError("nonsense"))
    with pytest.raises(openai.InternalServerError):
        ask(client(sampler, max_retries=2))
    assert sampler.calls == 1


def test_a_stream_adds_up_to_the_answer(client, words) -> None:
    sampler = ScriptedSampler(words("size 42, réd 👟"))
    chunks = list(ask(client(sampler), stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "size 42, réd 👟"
    assert [chunk.usage is not None for chunk in chunks][-1]
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_a_stream_that_cannot_begin_is_the_packages_own_error(client) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client(ScriptedSampler()), model="gpt-4o", stream=True)
    sampler = Flaky(failures=9, error=BackendError("gone", retryable=True))
    with pytest.raises(openai.InternalServerError) as failure:
        list(ask(client(sampler), stream=True))
    assert failure.value.code == "engine_unavailable"


def test_an_error_event_makes_the_package_raise() -> None:
    """An error event of `serve.api.streaming`, read by the package's own decoder."""
    from serve.api.streaming import DONE, error_body, frame
    from tests.serve.api.test_streaming import quick

    part = {"index": 0, "delta": {"role": "assistant", "content": "si"}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [part]}
    events = frame(chunk) + frame(error_body(BackendError("gone", retryable=True))) + DONE

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": events})

    received: list[Any] = []

    def listen(openai_client: openai.OpenAI) -> None:
        for event in ask(openai_client, stream=True):
            received.append(event.choices[0].delta.content)

    with (
        quick(app) as url,
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as openai_client,
        pytest.raises(openai.APIError, match="the engine does not answer"),
    ):
        listen(openai_client)
    assert received == ["si"]
