"""Turns as server-sent events: from the app over a scripted model, and from an engine that may fail half-way."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from serve.api.streaming import EventStream
from tests.serve.conftest import END, SETTINGS, TURN_END, byte_tokenizer, serving
from usersim.backends.vllm_http import HttpSampler
from usersim.errors import BackendError
from usersim.rendering.renderer import Renderer
from usersim.rendering.token_text import TextStream
from usersim.testing import ScriptedSampler
from usersim.types import Turn, UserTurn
from usersim.users.guards import Guards
from usersim.users.protocols import Draw, EndPolicy, Sampled, SampledPiece, Sampling, TurnPiece, as_profile
from usersim.users.userlm import UserLM

HISTORY = [Turn(role="user", text="hi"), Turn(role="assistant", text="Hello! What can I do?")]
MESSAGES = [{"role": turn.role, "content": turn.text} for turn in HISTORY]
TEXT = "naïve 😀  trip\n\nplease"


def events(http: httpx2.Client, url: str, **body: object) -> list[Any]:
    """The data of the events, parsed; [DONE] as it is."""
    response = http.post(f"{url}/v1/user/turns", json={"stream": True, **body})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith(("data: ", ":")) for line in lines)
    chunks = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in chunks]


def text_of(chunks: list[Any]) -> str:
    choices = [choice for event in chunks[:-1] for choice in event["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def drain(user: UserLM, **options: Any) -> list[TurnPiece | UserTurn]:
    async def collect() -> list[TurnPiece | UserTurn]:
        return [piece async for piece in user.stream(as_profile("eat out"), HISTORY, **options)]

    return asyncio.run(collect())


# -- what may be shown so far --------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.binary(max_size=6), st.integers(1, 5))
def test_the_pieces_of_any_text_add_up_and_never_split_a_character(
    text: str, noise: bytes, step: int
) -> None:
    renderer = Renderer(byte_tokenizer(), SETTINGS)
    some_bytes = [renderer.encode(chr(byte))[0] for byte in noise if byte < 128]
    ids = [*renderer.encode(text), *some_bytes, TURN_END, *renderer.encode("not said")]
    stream = TextStream(renderer)
    pieces = [stream.push(ids[start : start + step]) for start in range(0, len(ids), step)]
    whole, _ = renderer.read(ids)
    assert "".join(pieces) + stream.finish(whole) == whole
    replaced = whole.count("\ufffd")
    assert "".join(pieces).count("\ufffd") <= replaced


def test_half_a_character_and_trailing_space_wait_for_what_follows(renderer: Renderer) -> None:
    stream, ids = TextStream(renderer), renderer.encode(" é  x ")
    assert [stream.push([token]) for token in ids] == ["", "", "é", "", "", "  x", ""]


# -- a turn as it is said ------------------------------------------------------------------------------


def test_a_streamed_turn_is_the_turn_that_is_not_streamed(renderer: Renderer, words) -> None:
    options: dict[str, Any] = {"seed": 3, "sampling": Sampling(temperature=0.5)}
    *pieces, turn = drain(UserLM(renderer, ScriptedSampler(words(TEXT))), **options)
    whole = asyncio.run(
        UserLM(renderer, ScriptedSampler(words(TEXT))).sample(as_profile("eat out"), HISTORY, **options)
    )
    assert turn == whole[0]
    assert all(isinstance(piece, TurnPiece) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == TEXT
    assert pieces[0] == TurnPiece(text="", end_probability=0.1)


@pytest.mark.parametrize(
    ("ids", "end", "probability"),
    [
        ([END], EndPolicy(), 0.1),
        ([*b"words", TURN_END], EndPolicy(mode="threshold", threshold=0.6), 0.6),
        ([*b"words", TURN_END], EndPolicy(mode="greedy"), 0.9),
    ],
    ids=["sampled", "threshold", "greedy"],
)
def test_a_user_who_leaves_streams_no_words(
    renderer: Renderer, ids: list[int], end: EndPolicy, probability: float
) -> None:
    sampler = ScriptedSampler(ids, end_probability=probability)
    pieces = drain(UserLM(renderer, sampler), end=end)
    assert [type(piece) for piece in pieces] == [TurnPiece, UserTurn]
    assert [piece.text for piece in pieces] == ["", ""]
    assert pieces[0].end_probability == probability
    assert isinstance(pieces[1], UserTurn)
    assert (pieces[1].ends, pieces[1].finish) == (True, "end")
    assert sampler.closed_early == (end.mode != "sample"), "words that nobody hears are not drawn"


@pytest.mark.parametrize(
    ("text", "ended", "why"),
    [
        ("Eat out", True, ("goal_copy",)),
        ("rome", True, ()),
        ("so I was", False, ("cut",)),
        ("", True, ("empty",)),
    ],
)
def test_the_guards_only_say_what_they_would_have_refused(
    renderer: Renderer, text: str, ended: bool, why: tuple[str, ...]
) -> None:
    ids = [*renderer.encode(text), *([TURN_END] if ended else [])]
    sampler = ScriptedSampler(ids)
    turn = drain(UserLM(renderer, sampler))[-1]
    assert isinstance(turn, UserTurn)
    assert (turn.text, turn.rejected) == (text, why)
    assert len(sampler.prompts) == 1, "one attempt"


# -- over HTTP -----------------------------------------------------------------------------------------


def test_events_add_up_to_the_turn(start_server, http, words) -> None:
    url = start_server(ScriptedSampler(words(TEXT), words(TEXT)))
    fields = {"messages": MESSAGES, "seed": 7, "goal": "plan a trip"}
    whole = http.post(f"{url}/v1/user/turns", json=fields).json()
    chunks = events(http, url, **fields, stream_options={"include_usage": True})
    assert chunks[-1] == "[DONE]"
    assert text_of(chunks) == TEXT == whole["choices"][0]["message"]["content"]
    assert {event["object"] for event in chunks[:-1]} == {"user.turn.chunk"}
    assert len({event["id"] for event in chunks[:-1]}) == 1
    first, last, usage = chunks[0]["choices"][0], chunks[-3]["choices"][0], chunks[-2]
    assert first["delta"] == {"role": "user", "content": ""}
    assert first["end_of_conversation_prob"] == 0.1
    facts = ("finish_reason", "end_of_conversation", "logprob", "tokens", "seed", "rejected")
    assert {key: last[key] for key in facts} == {key: whole["choices"][0][key] for key in facts}
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])


def test_usage_comes_only_when_it_is_asked_for(start_server, http, words) -> None:
    assert not any("usage" in event for event in events(http, start_server(ScriptedSampler(words("a"))))[:-1])


def test_tokens_come_with_the_pieces_they_belong_to(start_server, http, words, renderer: Renderer) -> None:
    url = start_server(ScriptedSampler(words("é!")))
    chunks = events(http, url, logprobs=True, return_token_ids=True)
    choices = [choice for event in chunks[:-1] for choice in event["choices"]]
    assert [token for choice in choices for token in choice.get("token_ids", [])] == words("é!")
    content = [token for c in choices if "logprobs" in c for token in c["logprobs"]["content"]]
    assert [token["bytes"] for token in content] == [[0xC3], [0xA9], [ord("!")], []]
    assert [token["token"] for token in content] == ["\ufffd", "\ufffd", "!", ""]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "gpt-4o"}, 404, "model_not_found"),
        ({"messages": [{"role": "assistant", "content": "a"}] * 2}, 400, "invalid_request"),
        ({"n": 2}, 400, "invalid_request"),
        ({"logprobs": True, "top_logprobs": 2}, 400, "invalid_request"),
    ],
    ids=["model", "history", "n", "top_logprobs"],
)
def test_what_is_wrong_before_the_first_event_has_a_status_of_its_own(
    start_server, http, body: dict[str, Any], status: int, code: str
) -> None:
    response = http.post(start_server(ScriptedSampler()) + "/v1/user/turns", json={"stream": True, **body})
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


class BreakingSampler(ScriptedSampler):
    """Gives a piece, then fails; or waits for ever."""

    def __init__(self, *ids: int, error: Exception | None = None) -> None:
        super().__init__()
        self.ids, self.error, self.closed = ids, error, 0

    async def stream(self, request: Draw) -> AsyncGenerator[SampledPiece, None]:
        try:
            if self.ids:
                yield SampledPiece(list(self.ids), [-1.0] * len(self.ids), 0.2, False)
            if self.error:
                raise self.error
            await asyncio.sleep(600)
        finally:
            self.closed += 1


def test_an_engine_that_fails_before_the_first_token_is_an_ordinary_error(start_server, http) -> None:
    url = start_server(BreakingSampler(error=BackendError("gone", retryable=True)))
    response = http.post(f"{url}/v1/user/turns", json={"stream": True})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackendError("gone", retryable=True), "engine_unavailable"),
        (BackendError("nonsense"), "engine_protocol_error"),
        (ZeroDivisionError("secret"), "internal_error"),
    ],
    ids=["unavailable", "protocol", "bug"],
)
def test_an_error_half_way_is_an_event_before_the_end_and_counts_as_failed(
    start_server, http, error: Exception, code: str
) -> None:
    url = start_server(BreakingSampler(*b"hello", error=error))
    chunks = events(http, url)
    assert chunks[-1] == "[DONE]"
    assert chunks[-2]["error"]["code"] == code
    assert "secret" not in json.dumps(chunks)
    failed = 'usersim_requests_total{outcome="failed",route="/v1/user/turns"} 1.0'
    until(lambda: failed in http.get(f"{url}/metrics").text)


def until(true: Callable[[], bool]) -> None:
    async def poll() -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.05)

    asyncio.run(poll())


def test_a_reader_who_leaves_stops_the_engine_and_counts_as_cancelled(start_server, http) -> None:
    sampler = BreakingSampler(*b"hello")
    url = start_server(sampler)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/user/turns HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 16\r\n\r\n{"stream": true}'
        )
        read = b""
        while b"data: " not in read:
            read += client.recv(4096)
    until(lambda: sampler.closed == 1)
    cancelled = 'usersim_requests_total{outcome="cancelled",route="/v1/user/turns"} 1.0'
    until(lambda: cancelled in http.get(f"{url}/metrics").text)


# -- framing -------------------------------------------------------------------------------------------


def test_comments_keep_a_silent_stream_alive(http) -> None:
    async def slowly() -> AsyncGenerator[dict[str, Any], None]:
        yield {"n": 1}
        await asyncio.sleep(1)
        yield {"n": "zwei\n\u2028"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await EventStream(slowly(), keep_alive_s=0.1)(scope, receive, send)

    with quick(app) as url:
        blocks = http.post(url).text.split("\n\n")
    assert blocks[0] == 'data: {"n": 1}'
    assert ": keep-alive" in blocks
    assert blocks[-3:] == ['data: {"n": "zwei\\n\u2028"}', "data: [DONE]", ""]


@contextlib.contextmanager
def quick(app: Any) -> Iterator[str]:
    """Serves a bare ASGI callable, which knows no lifespan."""

    async def with_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})

    with serving(with_lifespan) as url:
        yield url


# -- an engine that streams ----------------------------------------------------------------------------


def chunk(ids: list[int], *, finish: str | None = None) -> bytes:
    """As vLLM sends it with token ids for names; only the first position's watched token matters here."""
    tops = [{f"token_id:{token}": -1.0, f"token_id:{END}": -3.0} for token in ids]
    logprobs = {"tokens": [], "token_logprobs": [-1.0] * len(ids), "top_logprobs": tops, "text_offset": []}
    choice = {"index": 0, "text": "", "logprobs": logprobs, "finish_reason": finish, "token_ids": ids}
    return b"data: " + json.dumps({"object": "text_completion", "choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
GOOD = [chunk([1, 2]), b": comment\r\n\r\n", chunk([3]), chunk([TURN_END], finish="stop"), DONE]


class Engine:
    """Sends what it was given, the bytes cut anywhere; `asked` keeps the bodies."""

    def __init__(self, *sent: bytes, hangs: bool = False, status: int = 200) -> None:
        self.sent, self.hangs, self.status = sent, hangs, status
        self.asked: list[dict[str, Any]] = []
        self.abandoned = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.asked.append(json.loads(body))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        for part in self.sent:
            for half in (part[:20], part[20:]):
                await send({"type": "http.response.body", "body": half, "more_body": True})
        if self.hangs:
            self.abandoned += (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b""})


def pieces_of(engine: Engine, **draw: Any) -> list[SampledPiece]:
    async def collect(url: str) -> list[SampledPiece]:
        sampler = HttpSampler(url)
        try:
            request = Draw([1], [TURN_END, END], END, Sampling(top_k=5), **draw)
            return [piece async for piece in sampler.stream(request)]
        finally:
            await sampler.aclose()

    with quick(engine) as url:
        return asyncio.run(collect(url))


def test_an_engines_stream_is_read_token_by_token() -> None:
    engine = Engine(*GOOD)
    pieces = pieces_of(engine, seed=4)
    assert [piece.token_ids for piece in pieces] == [[1, 2], [3], [TURN_END]]
    assert [piece.finish for piece in pieces] == [None, None, "stop"]
    assert {round(piece.end_probability, 4) for piece in pieces} == {0.0498}  # e^-3, of the first position
    request = engine.asked[0]
    assert (request["stream"], request["top_k"], request["seed"], request["n"]) == (True, 5, 4, 1)
    assert request["return_token_ids"] is True


ERROR = b'data: {"error": {"message": "the core died", "type": "InternalServerError", "code": 500}}\n\n'
REFUSED = b'data: {"error": {"message": "no", "type": "BadRequestError", "code": 400}}\n\n'


@pytest.mark.parametrize(
    ("sent", "retryable"),
    [
        ([chunk([1]), ERROR, DONE], True),
        ([chunk([1]), REFUSED, DONE], False),
        ([chunk([1]), chunk([2], finish="abort"), DONE], True),
        ([chunk([1]), chunk([2])], True),
        ([chunk([1]), chunk([2], finish="stop")], True),
        ([chunk([1]), DONE], True),
        ([DONE], True),
        ([], True),
        ([b"data: what\n\n", DONE], True),
        ([b'data: {"choices": [{"index": 0, "token_ids": [1]}]}\n\n', DONE], False),
    ],
    ids=[
        "error",
        "refused",
        "abort",
        "silent-eof",
        "eof-after-the-end",
        "no-finish",
        "nothing",
        "empty",
        "garbage",
        "no-logprobs",
    ],
)
def test_a_stream_that_is_not_whole_is_a_failure(sent: list[bytes], retryable: bool) -> None:
    with pytest.raises(BackendError) as failure:
        pieces_of(Engine(*sent))
    assert failure.value.retryable is retryable


def test_an_engine_that_refuses_a_stream_says_why() -> None:
    with pytest.raises(BackendError, match="HTTP 503: busy") as failure:
        pieces_of(Engine(b"busy", status=503))
    assert failure.value.retryable


def test_closing_a_stream_early_hangs_up_on_the_engine(renderer: Renderer) -> None:
    engine = Engine(chunk([1]), hangs=True)

    async def first(url: str) -> SampledPiece:
        sampler = HttpSampler(url)
        async with aclosing(sampler.stream(Draw([1], [TURN_END], END, Sampling()))) as pieces:
            piece = await anext(pieces)
        await asyncio.sleep(0)
        # The connection is closed with the stream, not with the client.
        async with asyncio.timeout(60):
            while not engine.abandoned:
                await asyncio.sleep(0.02)
        await sampler.aclose()
        return piece

    with quick(engine) as url:
        assert asyncio.run(first(url)).token_ids == [1]


def test_greedy_asks_the_engine_what_it_would_say() -> None:
    look = {
        "index": 0,
        "token_ids": [END],
        "finish_reason": "stop",
        "logprobs": {"token_logprobs": [-0.5], "top_logprobs": [{f"token_id:{END}": -0.5}]},
    }
    engine = Engine(json.dumps({"choices": [look]}).encode())

    async def ask(url: str) -> list[Sampled]:
        sampler = HttpSampler(url)
        try:
            return await sampler.sample(
                Draw([1], [TURN_END], END, Sampling(), ban_ids=[END], rank_watched=True)
            )
        finally:
            await sampler.aclose()

    with quick(engine) as url:
        (sampled,) = asyncio.run(ask(url))
    assert sampled.end_is_likeliest
    first, second = engine.asked
    assert (first["max_tokens"], first["temperature"], "logit_bias" in first) == (1, 0, False)
    assert (second["temperature"], second["logit_bias"]) == (1.0, {str(END): -100})


def test_what_the_sampler_has_no_guards_for_is_passed_through(renderer: Renderer, words) -> None:
    user = UserLM(renderer, ScriptedSampler(words("as an AI")), guards=Guards.off())
    assert drain(user)[-1].text == "as an AI"
