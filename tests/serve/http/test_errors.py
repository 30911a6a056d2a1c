import re
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from starlette.exceptions import HTTPException

from serve.http.errors import DeadlineError, ErrorEnvelope, OverloadedError, RequestError, error_envelope
from serve.routing.load_balancer import LoadBalancer
from usersim.errors import BackendError, ConfigError, ContextOverflowError, GuardError, RenderError
from usersim.testing import ScriptedSampler

ROUTES = ["/v1/user/turns", "/v1/chat/completions"]


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (RequestError("no", code="model_not_found", status=404), 404, "model_not_found", None),
        (RenderError("turns must alternate"), 400, "invalid_request", None),
        (
            ContextOverflowError("This model's maximum context length is 9 tokens; …"),
            400,
            "context_length_exceeded",
            None,
        ),
        (GuardError("no acceptable user turn", reasons={"empty": 1}), 500, "guards_exhausted", False),
        (BackendError("gone", retryable=True), 503, "engine_unavailable", True),
        (OverloadedError("full"), 503, "overloaded", True),
        (DeadlineError("late"), 504, "timeout", True),
        (BackendError("nonsense"), 502, "engine_protocol_error", False),
        (ConfigError("no"), 500, "internal_error", False),
        (KeyError("no"), 500, "internal_error", False),
        (HTTPException(405, "Method Not Allowed"), 405, "method_not_allowed", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_the_error_table(error: Exception, status: int, code: str, retry: bool | None) -> None:
    response = error_envelope(error).response()
    assert (response.status_code, error_envelope(error).code) == (status, code)
    assert ("retry-after" in response.headers) is (retry is True)
    assert (response.headers.get("x-should-retry") == "false") is (retry is False)


def test_clients_that_are_told_to_wait_come_back_soon_and_not_together() -> None:
    waits = {error_envelope(OverloadedError("full")).response().headers["retry-after"] for _ in range(200)}
    assert len(waits) > 2
    # openai-python does not retry at all when it is told more.
    assert (
        ErrorEnvelope(429, "x", "x", retry=True, retry_after_s=999).response().headers["retry-after"] == "120"
    )


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b'{"goal": ',
        b"",
        b"[]",
        b'"text"',
        b"null",
        b"[" * 100_000,
        b'{"temperature": NaN}',
        b'{"temperature": 1e999}',
        b'{"persona": {"style": {"turns": Infinity}}}',
        b'{"persona": {"style": {"turns": 1e999}}}',
        b'{"goal": "\\ud800"}',
        b'{"goal": "\xff"}',
        '{"goal": "x"}'.encode("utf-16"),
        b'{"seed": 1' + b"0" * 5000 + b"}",
        b'{"n": 17}',
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b'{"n": 1, "n": 2}',
        b'{"persona": {"style": {"turns": 1, "turns": 1}}}',
        b'{"messages": [{"role": "robot", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": null}]}',
        b'{"messages": {"role": "user"}}',
    ],
)
def test_bad_bodies_are_the_clients_fault(start_server, http: httpx2.Client, route: str, body: bytes) -> None:
    url = start_server(ScriptedSampler())
    response = http.post(url + route, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["code"], str)
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    "body",
    [
        {"gaol": "a typo"},
        {"goal": "a", "intent": "b"},
        {"goal": {"summary": "  "}},
        {"temperature": 3},
        {"max_tokens": 0},
        {"messages": [{"role": "user", "content": "the assistant has not answered"}]},
        {"messages": [{"role": "assistant", "content": "a"}] * 2},
        {"messages": [{"role": "assistant", "content": "x" * 70_000}]},
        {"end_of_conversation": {"mode": "maybe"}},
        {"metadata": {"a": 1}},
    ],
    ids=lambda body: "-".join(body),
)
def test_what_the_native_schema_refuses(start_server, http: httpx2.Client, body: dict[str, Any]) -> None:
    response = http.post(start_server(ScriptedSampler()) + "/v1/user/turns", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("name", ["gpt-4o", "../../etc/passwd", "%2e%2e", "a\0b", "x" * 500])
def test_an_unknown_model_is_not_found(start_server, http: httpx2.Client, name: str) -> None:
    response = http.post(start_server(ScriptedSampler()) + "/v1/user/turns", json={"model": name})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_a_history_beyond_the_window_says_so(start_server, http: httpx2.Client) -> None:
    turn = [{"role": "assistant", "content": "x" * 500}, {"role": "user", "content": "y" * 500}]
    messages = [*turn * 6, turn[0]]
    response = http.post(start_server(ScriptedSampler()) + "/v1/user/turns", json={"messages": messages})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["message"].startswith("This model's maximum context length is 1024 tokens")


@pytest.mark.parametrize("length_is_told", [True, False])
def test_a_body_over_the_cap_is_refused_while_it_is_read(
    start_server, http: httpx2.Client, length_is_told: bool
) -> None:
    url = start_server(ScriptedSampler(), max_body_bytes=10_000)
    body = b'{"goal": "' + b"x" * 20_000 + b'"}'
    content: Any = body if length_is_told else iter([body[:5000]] * 5)
    response = http.post(f"{url}/v1/user/turns", content=content)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def test_every_answer_carries_a_request_id(start_server, http: httpx2.Client) -> None:
    url = start_server(ScriptedSampler())
    echoed = http.get(f"{url}/health", headers={"X-Request-ID": "abc-123"})
    assert echoed.headers["x-request-id"] == "abc-123"
    for bad in ("two words", "x" * 200, "<script>"):
        generated = http.get(f"{url}/nowhere", headers={"X-Request-ID": bad})
        assert generated.status_code == 404
        assert generated.json()["error"]["code"] == "not_found"
        assert len(generated.headers["x-request-id"]) == 32


def test_a_base_url_without_v1_is_told_where_things_are(start_server, http: httpx2.Client) -> None:
    url = start_server(ScriptedSampler())
    missed = http.post(f"{url}/chat/completions", json={}).json()["error"]
    assert missed["message"] == (
        "no route /chat/completions; use /v1/chat/completions: an OpenAI client's base URL ends in /v1"
    )
    assert "GET /" in http.get(f"{url}/nowhere").json()["error"]["message"]
    assert "/v1/user/turns" in http.get(url).json()["turns"]


def test_head_is_get_without_a_body(start_server, http: httpx2.Client) -> None:
    url = start_server(ScriptedSampler())
    for path in ("/", "/health", "/ready", "/version", "/v1/models", "/docs", "/playground"):
        response = http.head(url + path)
        assert (response.status_code, response.content) == (200, b""), path
        assert int(response.headers["content-length"]) > 0
    assert http.head(f"{url}/v1/user/turns").status_code == 405


def test_the_document_has_an_example_of_a_chat_that_works(start_server, http: httpx2.Client, words) -> None:
    url = start_server(ScriptedSampler(words("hi"), words("hi")))
    schemas = http.get(f"{url}/openapi.json").json()["components"]["schemas"]
    assert http.post(f"{url}/v1/chat/completions", json=schemas["ChatRequest"]["example"]).status_code == 200
    assert http.post(f"{url}/v1/user/turns", json=schemas["UserTurnRequest"]["example"]).status_code == 200
    for name in ("goal", "persona"):
        assert "beyond OpenAI" in schemas["ChatRequest"]["properties"][name]["description"]


def test_what_nobody_expected_is_an_envelope_and_names_the_request(start_server, http: httpx2.Client) -> None:
    url = start_server(ScriptedSampler())  # out of lines: IndexError
    response = http.post(f"{url}/v1/user/turns", json={}, headers={"X-Request-ID": "r1"})
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "IndexError" not in response.text
    assert response.headers["x-request-id"] == "r1"


@pytest.mark.parametrize(
    ("fault", "status"),
    [("abort", 503), ("500", 503), ("400", 502), ("garbage", 502), ("fewer", 502), ("not-json", 502)],
)
def test_an_engine_that_fails_is_never_passed_on(
    start_server, fake_engine, http: httpx2.Client, fault: str, status: int
) -> None:
    url = start_server(LoadBalancer([fake_engine(fault)]))
    response = http.post(f"{url}/v1/user/turns", json={"n": 2})
    assert response.status_code == status
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) is (status == 503)
    assert http.get(f"{url}/ready").status_code == 503
    assert http.get(f"{url}/health").status_code == 200


def test_an_engine_that_answers_is_ready(start_server, fake_engine, http: httpx2.Client) -> None:
    url = start_server(LoadBalancer([fake_engine()]))
    assert "usersim_engine_up 0.0" in http.get(f"{url}/metrics").text
    assert http.get(f"{url}/ready").json() == {"status": "ready"}
    assert "usersim_engine_up 1.0" in http.get(f"{url}/metrics").text


def test_a_dead_engine_is_unavailable(start_server, http: httpx2.Client) -> None:
    url = start_server(LoadBalancer(["http://127.0.0.1:9"]))
    response = http.post(f"{url}/v1/user/turns", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")


def test_an_engine_that_hangs_meets_the_deadline(start_server, fake_engine, http: httpx2.Client) -> None:
    url = start_server(LoadBalancer([fake_engine("hang")], timeout_s=0.3))
    response = http.post(f"{url}/v1/user/turns", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_client_that_hangs_up_frees_the_engine(start_server, fake_engine, http: httpx2.Client) -> None:
    engine = fake_engine("hang")
    url = start_server(LoadBalancer([engine]))
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/user/turns HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\n\r\n{}"
        )
        wait_until(lambda: http.get(f"{engine}/hung").json()["begun"] == 1)
    wait_until(lambda: http.get(f"{engine}/hung").json()["abandoned"] == 1)
    metrics = http.get(f"{url}/metrics").text
    assert 'usersim_requests_total{outcome="cancelled",route="/v1/user/turns"} 1.0' in metrics


def test_the_counted_outcomes_add_up(start_server, http: httpx2.Client, words) -> None:
    url = start_server(ScriptedSampler(words("a train")))
    for body in ({}, {}, {"n": 99}):  # given, failed (out of lines), refused
        http.post(f"{url}/v1/user/turns", json=body)
    http.get(f"{url}/a/path/of/somebody")
    expected = {
        'usersim_requests_total{outcome="ok",route="/v1/user/turns"} 1.0',
        'usersim_requests_total{outcome="failed",route="/v1/user/turns"} 1.0',
        'usersim_requests_total{outcome="refused",route="/v1/user/turns"} 1.0',
        'usersim_requests_total{outcome="refused",route="other"} 1.0',
    }
    counted: set[str] = set()
    # A request is counted once its answer is out: the next one may overtake the count on a busy machine.
    for _ in range(50):
        text = http.get(f"{url}/metrics").text
        lines = {line for line in text.splitlines() if line.startswith("usersim_requests_total")}
        counted = {line for line in lines if 'route="/metrics"' not in line}
        if len(counted) >= len(expected):
            break
        time.sleep(0.05)
    assert counted == expected


def test_no_content_is_logged(
    start_server, http: httpx2.Client, words, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    url = start_server(ScriptedSampler(words("secret answer")))
    http.post(f"{url}/v1/user/turns", json={"goal": "secret goal"})
    http.post(f"{url}/v1/user/turns", json={"goal": "secret goal", "secret field": 1})
    http.post(f"{url}/v1/user/turns", json={"goal": "secret goal"})  # an unexpected error
    assert "secret" not in caplog.text


def test_the_pages_for_people_and_machines(start_server, http: httpx2.Client) -> None:
    url = start_server(ScriptedSampler())
    page = http.get(f"{url}/docs").text
    assert "swagger" in page.lower()
    assert "//" not in "".join(re.findall(r'(?:src|href)="([^"]+)"', page)), "nothing from elsewhere"
    assert http.get(f"{url}/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    paths = http.get(f"{url}/openapi.json").json()["paths"]
    assert {"/v1/user/turns", "/v1/chat/completions", "/v1/models", "/health", "/ready"} <= set(paths)
    assert http.get(f"{url}/version").json()["model"] == "bytes"
    assert {"userlm", "bytes"} <= {model["id"] for model in http.get(f"{url}/v1/models").json()["data"]}
