"""Limits in bytes and time on heads and on the bytes around a body, before authentication."""

import asyncio
import hashlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.serve.conftest import serving
from usersim.testing import ScriptedSampler

START = b"POST /v1/user/turns HTTP/1.1\r\nHost: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
KEY = {"name": "alice", "sha256": hashlib.sha256(b"secret").hexdigest()}
PATIENT_S = 60
"""A slow machine's; nothing here waits for so long."""


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    client.settimeout(PATIENT_S)
    return client


def answer_to(url: str, *pieces: bytes) -> bytes:
    """Everything that comes back until the server closes. It may close before it has read all."""
    with connected(url) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return b"".join(_rest(client))


def _rest(client: socket.socket) -> Iterator[bytes]:
    try:
        while data := client.recv(65536):
            yield data
    except ConnectionResetError:
        return


@pytest.mark.parametrize(
    "pieces",
    [
        [START, b"X: ", b"a" * 40_000],
        [START, b"X: " + b"a" * 40_000 + b"\r\n\r\n"],
        [START, b"".join(b"X-%d: a\r\n" % n for n in range(5000)), b"\r\n"],
        [b"GET /" + b"a" * 40_000],
        [b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ],
    ids=["one that does not end", "one", "many", "a path that does not end", "a path"],
)
def test_a_head_over_the_cap_is_refused_before_the_key_is_looked_at(
    start_server, pieces: list[bytes]
) -> None:
    answer = answer_to(start_server(ScriptedSampler(), keys=[KEY]), *pieces)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"request_header_fields_too_large"' in answer
    assert b"connection: close" in answer


def test_twenty_megabytes_of_one_header_are_not_read(start_server) -> None:
    with connected(start_server(ScriptedSampler())) as client:
        client.sendall(START + b"X: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(b"a" * 20_000_000)


def test_what_follows_a_body_in_pieces_is_bounded_too(start_server) -> None:
    chunked = START + JSON + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    with connected(start_server(ScriptedSampler())) as client:
        client.sendall(chunked + b"X: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(b"a" * 20_000_000)


TOO_LONG = b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000


@pytest.mark.parametrize(
    "sent", [TOO_LONG, TOO_LONG + b"\r\n\r\n", b"nonsense\r\n\r\n"], ids=["head", "whole head", "no head"]
)
@pytest.mark.parametrize("started", [True, False], ids=["running", "not begun"])
def test_a_refusal_is_never_written_into_the_answer_of_an_earlier_request(sent: bytes, started: bool) -> None:
    response_started, ended = threading.Event(), threading.Event()

    async def words() -> AsyncIterator[bytes]:
        yield b"first words"
        await asyncio.Event().wait()

    async def slow(request: Request) -> StreamingResponse:
        response_started.set()
        while not started and not ended.is_set():
            await asyncio.sleep(0.01)
        return StreamingResponse(words())

    app = Starlette(routes=[Route("/slow", slow)])
    with serving(app) as url, connected(url) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while started and b"first words\r\n" not in answer:
            answer += client.recv(65536)
        assert response_started.wait(PATIENT_S)
        try:
            client.sendall(sent)
            rest = b"".join(_rest(client))
        finally:
            ended.set()
    assert rest == b""
    assert answer.count(b"HTTP/1.1") == started


def test_a_head_under_the_cap_with_a_large_body_is_served(start_server, http, words) -> None:
    url = start_server(ScriptedSampler(words("a train")))
    body = b'{"goal": "' + b"x" * 500 + b'"' + b" " * 1_500_000 + b"}"
    headers = {"Content-Type": "application/json", "X-Long": "a" * 20_000}
    assert http.post(f"{url}/v1/user/turns", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"", b""), (START, b"HTTP/1.1 408 "), (START + b"X: a", b"HTTP/1.1 408 ")],
    ids=["nothing", "half a head", "half a header"],
)
def test_a_head_that_does_not_come_frees_its_connection(start_server, sent: bytes, answer: bytes) -> None:
    url = start_server(ScriptedSampler(), limits={"head_s": 0.2})
    assert answer_to(url, sent).startswith(answer)


def test_the_second_head_of_a_connection_is_timed_like_the_first(start_server) -> None:
    url = start_server(ScriptedSampler(), limits={"head_s": 0.2})
    answer = answer_to(url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", START)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


def test_a_request_that_takes_longer_than_its_head_may_is_answered(start_server, fake_engine, http) -> None:
    from serve.routing.load_balancer import LoadBalancer

    url = start_server(LoadBalancer([fake_engine("take-1")]), limits={"head_s": 0.2})
    assert http.post(f"{url}/v1/user/turns", json={}).status_code == 200
