"""The endpoint's clients against scripted answers on a real socket; what they share with the app is tested there."""

import asyncio
import copy
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import usersim
from serve.app import create_app
from serve.config import ServeConfig
from tests.serve.api.test_streaming import quick
from tests.serve.conftest import END, SETTINGS, TURN_END, byte_tokenizer, serving
from usersim.chat_models.openai_chat import HttpChat
from usersim.decoding.noise import sampler_seed
from usersim.errors import BackendError, ContextOverflowError, GuardError, RenderError
from usersim.remote.async_client import RemoteUser
from usersim.remote.sync_client import SyncRemoteUser
from usersim.rendering.renderer import Renderer
from usersim.testing import ScriptedSampler
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.protocols import EndPolicy, Sampling, TurnPiece, as_profile
from usersim.users.userlm import UserLM

GOAL = as_profile("plan a trip", "terse")
HISTORY = [Turn(role="user", text="hi"), Turn(role="assistant", text="Hello!")]
RENDERER = Renderer(byte_tokenizer(), SETTINGS)


def words(text: str) -> list[int]:
    return [*RENDERER.encode(text), TURN_END]


@pytest.fixture
def front() -> Iterator[Callable[..., str]]:
    with ExitStack() as stack:

        def start(sampler: ScriptedSampler, **settings: Any) -> str:
            config = ServeConfig.model_validate({"names": ["userlm"], **settings})
            user = UserLM(RENDERER, sampler, guards=config.guards, name="bytes")
            return stack.enter_context(serving(create_app(config, user)))

        yield start


def ask(url: str, **options: Any) -> UserTurn:
    async def once() -> UserTurn:
        user = RemoteUser(url, **options)
        try:
            return await user(GOAL, HISTORY)
        finally:
            await user.aclose()

    return asyncio.run(once())


class Server:
    """Answers each request with the next of its (status, headers, body); the last one for ever."""

    def __init__(self, *answers: tuple[int, dict[str, str], bytes]) -> None:
        self.answers = list(answers)
        self.times: list[float] = []
        self.headers: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.times.append(time.monotonic())
        self.headers.append(dict(scope["headers"]))
        status, headers, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": named})
        await send({"type": "http.response.body", "body": body})


def error(code: str) -> bytes:
    return json.dumps({"error": {"message": "no", "type": "x", "param": None, "code": code}}).encode()


CHOICE = {
    "index": 0,
    "message": {"role": "user", "content": "a train"},
    "finish_reason": "stop",
    "end_of_conversation": False,
    "end_of_conversation_prob": 0.1,
    "logprob": -2.0,
    "tokens": 2,
    "seed": None,
    "rejected": [],
}
GOOD = (200, {}, json.dumps({"choices": [CHOICE], "usage": {"prompt_tokens": 9}}).encode())
BUSY = (503, {"Retry-After": "0"}, error("overloaded"))


# -- trying again --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        BUSY,
        (429, {"Retry-After": "0"}, error("rate_limit_exceeded")),
        (504, {}, error("timeout")),
        (500, {}, b"<html>"),
    ],
    ids=["overloaded", "quota", "deadline", "proxy"],
)
def test_what_may_succeed_later_is_tried_again(refusal: Any) -> None:
    server = Server(refusal, GOOD)
    with quick(server) as url:
        assert ask(url).text == "a train"
    assert len(server.times) == 2


def test_tries_are_bounded_and_the_last_error_is_told() -> None:
    server = Server(BUSY)
    with quick(server) as url, pytest.raises(BackendError, match="HTTP 503") as failure:
        ask(url, max_retries=3)
    assert len(server.times) == 4
    assert failure.value.retryable


def test_the_server_says_how_long_to_wait() -> None:
    server = Server((503, {"Retry-After": "1"}, error("overloaded")), GOOD)
    with quick(server) as url:
        ask(url)
    assert server.times[1] - server.times[0] >= 1


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((503, {"x-should-retry": "false"}, error("engine_protocol_error")), BackendError),
        ((503, {"Retry-After": "3600"}, error("overloaded")), BackendError),
        ((500, {"x-should-retry": "false"}, error("guards_exhausted")), GuardError),
        ((401, {}, error("invalid_api_key")), BackendError),
        ((404, {}, error("model_not_found")), BackendError),
        ((400, {}, error("invalid_request")), RenderError),
        ((400, {}, error("context_length_exceeded")), ContextOverflowError),
    ],
    ids=["told-not-to", "too-long", "guards", "key", "model", "history", "window"],
)
def test_what_cannot_succeed_is_tried_once(refusal: Any, kind: type[Exception]) -> None:
    server = Server(refusal)
    with quick(server) as url, pytest.raises(kind):
        ask(url)
    assert len(server.times) == 1


def test_nobody_there_is_a_retryable_error() -> None:
    with pytest.raises(BackendError) as failure:
        ask("http://127.0.0.1:9", max_retries=0)
    assert failure.value.retryable


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERSIM_API_KEY", "from-env")
    server = Server(GOOD)
    with quick(server) as url:
        with usersim.connect(url, sync=True) as user:
            user(GOAL, HISTORY)
        with usersim.connect(url, api_key="given", sync=True) as user:
            user(GOAL, HISTORY)
    assert [headers[b"authorization"] for headers in server.headers] == [b"Bearer from-env", b"Bearer given"]


# -- everything a local user does ----------------------------------------------------------------------


def both(url: str, sampler: ScriptedSampler) -> tuple[RemoteUser, UserLM]:
    return usersim.connect(url), UserLM(RENDERER, sampler)


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_remote_stream_is_the_local_stream(front, logprobs: bool) -> None:
    text = "naïve 😀  trip"
    remote, local = both(front(ScriptedSampler(words(text))), ScriptedSampler(words(text)))

    async def pieces(user: RemoteUser | UserLM) -> list[TurnPiece | UserTurn]:
        asked = user.stream(
            GOAL, HISTORY, seed=3, sampling=Sampling(top_k=7), logprobs=logprobs, affinity="c"
        )
        found = [piece async for piece in asked]
        await user.aclose()
        return found

    assert asyncio.run(pieces(remote)) == asyncio.run(pieces(local))


def test_remote_details_and_termination_are_the_local_ones(front) -> None:
    scripts = [words("é"), [5]]
    remote, local = both(front(ScriptedSampler(*scripts)), ScriptedSampler(*scripts))

    async def everything(user: RemoteUser | UserLM) -> list[Any]:
        turns = await user.sample(GOAL, HISTORY, logprobs=2, seed=1)
        leaving = await user.termination(GOAL, HISTORY, end=EndPolicy(mode="threshold", threshold=0.05))
        await user.aclose()
        return [turns, leaving]

    (turns, leaving), here = asyncio.run(everything(remote)), asyncio.run(everything(local))
    assert [turns, leaving] == here
    assert leaving.ends
    assert len(turns[0].trace) == 3


def test_a_batch_of_any_length_keeps_order_and_errors_in_place(front) -> None:
    sampler = ScriptedSampler(*[words("a train")] * 70)
    bad = [Turn(role="user", text="nobody has answered")]
    requests: list[tuple[UserProfile, list[Turn]]] = [(GOAL, HISTORY if i != 66 else bad) for i in range(70)]

    async def batch() -> list[Any]:
        user = usersim.connect(front(sampler))
        try:
            return await user.batch(requests, seed=100)
        finally:
            await user.aclose()

    made = asyncio.run(batch())
    assert isinstance(made.pop(66), RenderError)
    assert {turn.text for turn in made} == {"a train"}
    given = {sampler_seed(i, sampler.prompts[0], common=False) for i in range(100, 170) if i != 166}
    assert set(sampler.seeds) == given


async def heard_of(url: str) -> tuple[list[str], BackendError | None]:
    heard, user = [], RemoteUser(url)
    try:
        async for piece in user.stream(GOAL, HISTORY):
            heard.append(piece.text)
    except BackendError as failure:
        return heard, failure
    finally:
        await user.aclose()
    return heard, None


def test_a_stream_is_tried_again_until_its_first_piece_is_here() -> None:
    chunks = [
        {
            "choices": [
                {"index": 0, "delta": {"role": "user", "content": ""}, "end_of_conversation_prob": 0.1}
            ]
        },
        {"choices": [{"index": 0, "delta": {"content": "a train"}}]},
    ]
    broken = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    fails = broken + b"data: " + error("engine_unavailable") + b"\n\ndata: [DONE]\n\n"
    for ending in (fails, broken, broken + b"data: [DONE]\n\n"):
        server = Server(BUSY, (200, {}, ending))

        with quick(server) as url:
            heard, failure = asyncio.run(heard_of(url))
        assert heard == ["", "a train"]
        assert failure is not None
        assert failure.retryable
        assert len(server.times) == 2, "what was heard cannot be taken back"


# -- without an event loop -----------------------------------------------------------------------------


def test_the_sync_client_has_every_method(front) -> None:
    sampler = ScriptedSampler(words("one"), words("two"), words("three"), [5], words("four"))
    with usersim.connect(front(sampler), sync=True) as user:
        assert isinstance(user, SyncRemoteUser)
        assert user(GOAL, HISTORY).text == "one"
        assert user.sample(GOAL, HISTORY, seed=1)[0].text == "two"
        *pieces, turn = user.stream(GOAL, HISTORY)
        assert ("".join(piece.text for piece in pieces), turn.text) == ("three", "three")
        assert not user.termination(GOAL, HISTORY).ends
        (last,) = user.batch([(GOAL, HISTORY)])
        assert isinstance(last, UserTurn)


def test_leaving_a_sync_stream_early_ends_the_request(front) -> None:
    sampler = ScriptedSampler(words("a long turn " * 20), [END])
    with usersim.connect(front(sampler), sync=True) as user:
        for piece in user.stream(GOAL, HISTORY):
            if piece.text:
                break
        assert user(GOAL, HISTORY).ends, "the connection can be used again"


# -- any loop, any process -----------------------------------------------------------------------------


def test_a_sync_client_may_be_the_user_of_every_function(front) -> None:
    sampler = ScriptedSampler(words("one"), words("two"), words("three"), [END])
    with usersim.connect(front(sampler), sync=True) as user:
        assert usersim.sample(goal="g", user=user).text == "one"
        (many,) = usersim.sample_many(["g"], user=user)
        assert isinstance(many, UserTurn)
        made = usersim.converse(lambda turns: "ok", goal="g", user=user)
        assert [turn.text for turn in made.turns] == ["three", "ok"]
        assert (made.ended_by, made.source) == ("user", "userlm")


def test_a_client_works_on_one_event_loop_after_another() -> None:
    with quick(Server(GOOD)) as url:
        user = RemoteUser(url)
        assert [asyncio.run(user(GOAL, HISTORY)).text for _ in range(3)] == ["a train"] * 3
        assert usersim.sample(goal="g", turns=HISTORY, user=user).text == "a train"
        asyncio.run(user.aclose())
        assert asyncio.run(user(GOAL, HISTORY)).text == "a train", "closed is not the end of it"


def test_a_chat_works_on_one_event_loop_after_another() -> None:
    answer = json.dumps({"choices": [{"message": {"content": "yo"}}]}).encode()
    with quick(Server((200, {}, answer))) as url:
        chat = HttpChat(url, model="m")
        assert [asyncio.run(chat(HISTORY[:1])) for _ in range(2)] == ["yo", "yo"]


@pytest.mark.parametrize(
    "copied",
    [lambda user: pickle.loads(pickle.dumps(user)), copy.deepcopy, copy.copy],
    ids=["pickle", "deepcopy", "copy"],
)
def test_a_client_that_is_connected_can_be_pickled_and_copied(copied: Callable[[Any], Any]) -> None:
    server = Server(GOOD)
    with quick(server) as url:
        options: dict[str, Any] = {"model": "m", "api_key": "k", "timeout_s": 9.0, "max_retries": 7}
        user = usersim.connect(url, sync=True, **options)
        user(GOAL, HISTORY)
        again = copied(user)
        assert again(GOAL, HISTORY).text == "a train"
        inner = copied(user.user)
        assert asyncio.run(inner(GOAL, HISTORY)).text == "a train"
        assert (again.name, inner.model, inner.max_retries) == ("m", "m", 7)
        assert [headers[b"authorization"] for headers in server.headers] == [b"Bearer k"] * 3


FORKED = """
import os, sys, usersim
user = usersim.connect(sys.argv[1], sync=True)
history = [usersim.Turn(role="user", text="hi"), usersim.Turn(role="assistant", text="yo")]
print(user(usersim.as_profile("g"), history).text, flush=True)
child = os.fork()
if child == 0:
    print(usersim.sample(goal="g", turns=history, user=user).text, flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
print(user(usersim.as_profile("g"), history).text)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_client_used_before_a_fork_works_in_both_processes() -> None:
    with quick(Server(GOOD)) as url:
        done = subprocess.run(
            [sys.executable, "-c", FORKED, url], capture_output=True, text=True, timeout=120
        )
    assert (done.returncode, done.stdout) == (0, "a train\n" * 3), done.stderr
