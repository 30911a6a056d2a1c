"""Twenty faults around the endpoint, with the tests that cover them. `lb` stands for test_load_balancer.

Every request ends in a whole answer or an explicit error, the counters balance, and no engine works for a lost client.

 1  engine killed               test_a_killed_engine_…, …_whose_engine_dies_…; lb: …_another_does, …_hiccup_…
 2  engine stopped, hangs       test_a_stopped_engine_…; lb: …_silent_engine_…, …_hangs_…; test_engine: …_hangs_…
 3  engine restarted            test_a_restarted_engine_…; lb: …_comes_back_as_another_…
 4  finish_reason abort         test_errors: …_fails_is_never_passed_on
 5  slow engine, slow reader    test_a_stream_without_…, …_reads_too_slowly_…, …_body_that_does_not_come_…; test_errors
 6  ten times the capacity      test_a_burst_…; test_admission
 7  client hangs up             test_a_client_that_leaves_…; test_errors: …_hangs_up_frees_the_engine
 8  malformed input             test_errors: test_bad_bodies_…, test_what_the_native_schema_refuses; test_fuzz
 9  too long                    test_errors: …_beyond_the_window_…, …_over_the_cap_…
10  strange text                test_any_text_comes_through_unharmed
11  control tokens in content   test_control_tokens; test_native: test_control_tokens_in_content_stay_text
12  model names that are paths  test_errors: test_an_unknown_model_is_not_found
13  adapter changed under load  test_models
14  SIGTERM                     test_shutdown
15  the clock jumps             test_the_time_of_day_decides_nothing; test_keys: …_monotonic_…
16  log sink full or broken     test_logs
17  keys                        test_keys
18  headers for the engine      test_nothing_that_a_client_puts_into_its_head_…
19  engine of another model     test_main: …_not_this_model_is_refused; lb: …_comes_back_as_another_…
20  engine talks nonsense       test_errors: …_never_passed_on; lb: …_would_fail_again_…
"""

import asyncio
import contextlib
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import serve.http.middleware
from serve.config import ServeLimits
from serve.routing.load_balancer import LoadBalancer
from tests.serve.engines import FakeEngine, _pair, eventually, pair  # noqa: F401
from usersim.rendering.conditioning import describe
from usersim.rendering.renderer import Renderer
from usersim.testing import ScriptedSampler
from usersim.users.protocols import as_profile

Pair = tuple[FakeEngine, FakeEngine]
HTTP = httpx2.Client
TURNS = "/v1/user/turns"


def ask(http: HTTP, url: str, **body: object) -> httpx2.Response:
    return http.post(url + TURNS, json=body)


def metric(http: HTTP, url: str, name: str) -> float:
    """The sum over all labels but those of the routes that tests poll."""
    lines = [line for line in http.get(f"{url}/metrics").text.splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines if not any(f'"/{path}"' in line for path in POLLED))


POLLED = ("metrics", "ready", "health")


def balanced(http: HTTP, url: str) -> bool:
    received = metric(http, url, "usersim_requests_received_total")
    return received == metric(http, url, "usersim_requests_total")


def send(url: str, head: str, body: bytes = b"") -> socket.socket:
    """A client that a test can leave at any moment."""
    host, port = url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    client.sendall(f"{head}\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode() + body)
    return client


def posting(url: str, body: bytes) -> socket.socket:
    return send(url, f"POST {TURNS} HTTP/1.1", b"Content-Length: %d\r\n\r\n" % len(body) + body)


def test_a_killed_engine_costs_no_answer_while_another_lives(start_server, http: HTTP, pair: Pair) -> None:  # noqa: F811
    first, second = pair
    first.fault("die")
    url = start_server(LoadBalancer([first.url, second.url]))
    assert ask(http, url).status_code == 200
    first.process.wait(30)
    assert [ask(http, url).status_code for _ in range(3)] == [200] * 3
    assert http.get(f"{url}/ready").status_code == 200


def test_a_killed_engine_that_is_alone_is_said_to_be_gone(start_server, http: HTTP, pair: Pair) -> None:  # noqa: F811
    engine = pair[0]
    engine.fault("die")
    url = start_server(LoadBalancer([engine.url]))
    for _ in range(2):
        answer = ask(http, url)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert http.get(f"{url}/ready").status_code == 503
    assert http.get(f"{url}/health").status_code == 200
    eventually(lambda: balanced(http, url))


@pytest.mark.parametrize("fault", ["stream-die", "stream-cut", "stream-error", "stream-abort"])
def test_a_stream_whose_engine_dies_ends_in_an_error_never_in_silence(
    start_server,
    http: HTTP,
    pair: Pair,  # noqa: F811
    fault: str,
) -> None:
    engine = pair[0]
    url = start_server(LoadBalancer([engine.url]))
    assert ask(http, url).status_code == 200
    engine.fault(fault)
    with http.stream("POST", url + TURNS, json={"stream": True}) as answer:
        assert answer.status_code == 200
        events = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert events[-1] == "data: [DONE]"
    assert '"error"' in events[-2]
    assert "secret" not in events[-2]
    eventually(lambda: balanced(http, url))
    counted = http.get(f"{url}/metrics").text
    assert f'usersim_requests_total{{outcome="failed",route="{TURNS}"}} 1.0' in counted


def test_a_stopped_engine_is_a_timeout_for_who_waits_and_not_ready_for_the_rest(
    start_server,
    http: HTTP,
    pair: Pair,  # noqa: F811
) -> None:
    engine = pair[0]
    url = start_server(LoadBalancer([engine.url], timeout_s=1, limits=ServeLimits(probe_s=1)))
    assert ask(http, url).status_code == 200
    engine.signal(signal.SIGSTOP)
    answer = ask(http, url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert "retry-after" in answer.headers
    eventually(lambda: http.get(f"{url}/ready").status_code == 503)
    began = time.monotonic()
    assert ask(http, url).status_code == 503  # out of rotation: no request waits for it
    assert time.monotonic() - began < 10
    engine.signal(signal.SIGCONT)
    eventually(lambda: http.get(f"{url}/ready").status_code == 200)
    assert ask(http, url).status_code == 200


def test_a_restarted_engine_serves_again_and_no_old_connection_shows(
    start_server,
    http: HTTP,
    pair: Pair,  # noqa: F811
) -> None:
    engine = pair[0]
    url = start_server(LoadBalancer([engine.url]), ready_for_s=0)
    assert ask(http, url).status_code == 200
    engine.kill()
    engine.start()
    # The pooled connections are dead, which is not detected yet.
    assert [ask(http, url).status_code for _ in range(5)] == [200] * 5
    assert http.get(f"{url}/ready").status_code == 200


def test_a_stream_without_a_first_token_is_given_up(start_server, http: HTTP, pair: Pair) -> None:  # noqa: F811
    engine = pair[0]
    engine.fault("hang-turns")
    url = start_server(LoadBalancer([engine.url], limits=ServeLimits(first_token_s=0.3)))
    answer = ask(http, url, stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_a_client_that_reads_too_slowly_ends_with_its_deadline_and_fills_no_memory(
    start_server,
    http: HTTP,
    pair: Pair,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve.http.middleware, "GRACE_S", 0.5)
    engine = pair[0]
    engine.fault("stream-endless")
    url = start_server(LoadBalancer([engine.url]), request_timeout_s=3)
    with posting(url, b'{"stream": true}') as client:
        client.recv(1)
        eventually(lambda: metric(http, url, "usersim_requests_total") == 1)
    assert metric(http, url, "usersim_samples_in_flight") == 0
    # Unread output is not fetched: a few buffers full, not three seconds of a machine's output.
    assert engine.hung()["events"] * 150 < 40_000_000
    counted = http.get(f"{url}/metrics").text
    assert f'usersim_requests_total{{outcome="failed",route="{TURNS}"}} 1.0' in counted


def test_a_body_that_does_not_come_is_not_waited_for(start_server, http: HTTP) -> None:
    url = start_server(ScriptedSampler(), limits={"body_s": 0.3})
    with send(url, f"POST {TURNS} HTTP/1.1", b"Content-Length: 9\r\n\r\n{") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 408")
    eventually(lambda: balanced(http, url))


def test_a_burst_of_ten_times_the_capacity_is_answered_or_refused_and_adds_up(
    start_server,
    http: HTTP,
    pair: Pair,  # noqa: F811
) -> None:
    engine = pair[0]
    engine.fault("take-0.3")
    before = engine.seen()["most"]
    url = start_server(LoadBalancer([engine.url], samples_per_engine=4, limits=ServeLimits(max_waiting=8)))

    async def burst() -> list[httpx2.Response]:
        limits = httpx2.Limits(max_connections=120)
        async with httpx2.AsyncClient(trust_env=False, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(client.post(url + TURNS, json={}) for _ in range(120)))

    answers = asyncio.run(burst())
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] >= 12  # who was let in, or into the queue, was served
    assert statuses[200] + statuses[503] == 120
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.json()["error"]["code"] for answer in refused} == {"overloaded"}
    waits = {int(answer.headers["retry-after"]) for answer in refused}
    assert min(waits) >= 1
    assert len(waits) > 1  # not all at the same moment again
    assert max(before, 4) >= engine.seen()["most"]
    eventually(lambda: balanced(http, url))
    assert metric(http, url, "usersim_admission_refused_total") == statuses[503]
    assert metric(http, url, "usersim_queue_length") == 0
    assert metric(http, url, "usersim_samples_in_flight") == 0


@pytest.mark.parametrize("when", ["before its body", "queued", "in flight", "streaming"])
def test_a_client_that_leaves_frees_everything_and_is_counted(
    start_server,
    http: HTTP,
    pair: Pair,  # noqa: F811
    when: str,
) -> None:
    engine = pair[0]
    engine.fault("stream-hang" if when == "streaming" else "hang-turns")
    url = start_server(LoadBalancer([engine.url], samples_per_engine=1))
    before = engine.hung()
    holder: Any = contextlib.nullcontext()
    if when == "queued":
        holder = posting(url, b"{}")
        eventually(lambda: engine.hung()["begun"] == before["begun"] + 1)
    with holder:
        leaver = (
            send(url, f"POST {TURNS} HTTP/1.1", b"Content-Length: 9\r\n\r\n{")
            if when == "before its body"
            else posting(url, b'{"stream": true}' if when == "streaming" else b"{}")
        )
        eventually(ARRIVED[when](http, url, engine, before["begun"]))
        leaver.close()
        if when == "queued":
            eventually(lambda: metric(http, url, "usersim_queue_length") == 0)
            assert metric(http, url, "usersim_samples_in_flight") == 1
    eventually(lambda: balanced(http, url))
    started = engine.hung()["begun"] - before["begun"]
    eventually(lambda: engine.hung()["abandoned"] - before["abandoned"] == started)
    assert metric(http, url, "usersim_samples_in_flight") == 0
    left = 2.0 if when == "queued" else 1.0
    text = http.get(f"{url}/metrics").text
    assert f'usersim_requests_total{{outcome="cancelled",route="{TURNS}"}} {left}' in text


def _came_in(http: HTTP, url: str, *_: object) -> Callable[[], bool]:
    return lambda: metric(http, url, "usersim_requests_received_total") == 1


def _queued(http: HTTP, url: str, *_: object) -> Callable[[], bool]:
    return lambda: metric(http, url, "usersim_queue_length") == 1


def _hanging(_: HTTP, __: str, engine: FakeEngine, before: int) -> Callable[[], bool]:
    return lambda: engine.hung()["begun"] == before + 1


ARRIVED = {"before its body": _came_in, "queued": _queued, "in flight": _hanging, "streaming": _hanging}
STRANGE = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("\0\u200b\u200d\u202e\ufffd\u0301\ufeff\u2028👩🏽\U000e0041\r\n\t"),
    ),
    max_size=40,
)


class Echo(ScriptedSampler):
    """Says whatever it was told to say next."""

    said: list[int]

    async def sample(self, request: Any) -> Any:
        self.continuations = [self.said] * request.n
        return await super().sample(request)


def test_any_text_comes_through_unharmed(start_server, http: HTTP, renderer: Renderer) -> None:
    echo = Echo()
    url = start_server(echo, guards={"empty": False, "repeat": False, "goal_copy": False, "attempts": 1})

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(STRANGE, STRANGE)
    def comes_through(goal: str, words: str) -> None:
        echo.said = [*renderer.encode(words), 257]
        answer = http.post(url + TURNS, json={"goal": goal, "messages": []})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"] == renderer.read(echo.said)[0]
        # The goal's first letter and closing full stop go the way of the sentence it stands in.
        assert describe(as_profile(goal)) in renderer.decode(echo.prompts[-1])

    comes_through()


def test_the_time_of_day_decides_nothing(start_server, http: HTTP, words, monkeypatch) -> None:
    """An hour forward, two back: no deadline passes, no quota fills, no proof of life expires."""
    now, shifts = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + shifts[-1])
    url = start_server(ScriptedSampler(*[words("hi")] * 3), request_timeout_s=60)
    created = []
    for shift in (0.0, 3600.0, -3600.0):
        shifts.append(shift)
        answer = ask(http, url)
        assert answer.status_code == 200
        created.append(answer.json()["created"])
        assert http.get(f"{url}/ready").status_code == 200
    assert created[2] < created[0] < created[1]  # the date of an answer is the only thing that moved


def test_nothing_that_a_client_puts_into_its_head_reaches_the_engine(
    start_server,
    http: HTTP,
    pair: Pair,  # noqa: F811
) -> None:
    engine = pair[0]
    url = start_server(LoadBalancer([engine.url]))
    smuggled = {
        "X-Vllm-Priority": "-100",
        "X-Session-ID": "somebody-else",
        "X-data-parallel-rank": "1",
        "Authorization": "Bearer secret",
        "Cookie": "a=b",
        "X-Request-ID": "mine",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    assert http.post(url + TURNS, json={}, headers=smuggled).status_code == 200
    request = engine.seen()["requests"][-1]
    assert not {name.lower() for name in smuggled} & set(request["headers"])
    assert not {"priority", "session_id", "truncate_prompt_tokens"} & set(request["body"])
