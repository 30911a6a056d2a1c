"""A judge over an endpoint that misbehaves: retried, counted, cached, and given up in one readable line."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from tests.fake_endpoint import Reply, dead_url, endpoint
from usersim.chat_models.client import ChatSampling, EndpointDown, NoAnswer
from usersim.chat_models.judge import Judge
from usersim.chat_models.structured import UNPORTABLE, Unusable, json_schema, read_object
from usersim.errors import BackendError, ConfigError
from usersim.types import Record


class Verdict(Record):
    score: int = Field(ge=0, le=10)
    title: str = "none"


QUESTION = [{"role": "system", "content": "You rate."}, {"role": "user", "content": "Rate this."}]
GOOD = '{"score": 7, "title": "fine"}'


def judge(url: str, **settings: Any) -> Judge:
    return Judge(url, "m", **{"max_retries": 2, "backoff_s": 0.001, "timeout_s": 5.0, **settings})


def ask(
    asked: Judge, *, times: int = 1, sampling: ChatSampling | None = None
) -> list[Verdict | BackendError]:
    """One after another, on one event loop; errors are among the answers."""

    async def all_of_them() -> list[Verdict | BackendError]:
        got: list[Verdict | BackendError] = []
        for _ in range(times):
            try:
                got.append(await asked.ask(QUESTION, Verdict, sampling=sampling))
            except BackendError as error:
                got.append(error)
        await asked.aclose()
        return got

    return asyncio.run(all_of_them())


def script(*replies: Reply) -> Any:
    """The replies in order, the last one again and again."""
    return lambda body, number: replies[min(number, len(replies) - 1)]


def test_a_busy_endpoint_is_asked_again_and_everything_is_counted() -> None:
    with endpoint(script(Reply(status=429), Reply(status=503), Reply(GOOD))) as fake:
        asked = judge(fake.url, price_in=2.0, price_out=10.0)
        assert ask(asked) == [Verdict(score=7, title="fine")]
    counted = asked.usage.summary()
    assert counted.pop("request_seconds") >= 0
    assert counted == {
        "questions": 1,
        "cache_hits": 0,
        "requests": 3,
        "retries": 2,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "failures": {},
        "cost": 0.00007,  # 10 of 2 and 5 of 10 a million
    }


def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with endpoint(script(Reply(status=429, headers={"Retry-After": "0.3"}), Reply(GOOD))) as fake:
        assert ask(judge(fake.url, backoff_s=60.0)) == [Verdict(score=7, title="fine")]
    assert [seconds for seconds in slept if seconds] == [0.3]


def test_three_questions_in_a_row_without_an_answer_are_enough() -> None:
    with endpoint(script(Reply(status=500, raw="oh\nno"))) as fake:
        asked = judge(fake.url)
        first, second, third, fourth = ask(asked, times=4)
        assert len(fake.bodies) == 9  # three tries each, and none for the fourth
    for error in (first, second):
        assert isinstance(error, NoAnswer)
        assert error.reason == "HTTP 500"
    for error in (third, fourth):
        assert isinstance(error, EndpointDown)
        assert str(error) == f"{fake.url}: HTTP 500: oh no"
    assert asked.usage.failures == {"HTTP 500": 2}


def test_an_answer_in_between_shows_that_the_endpoint_lives() -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        return Reply(GOOD) if number == 6 else Reply(status=500)

    with endpoint(answer) as fake:
        got = ask(judge(fake.url), times=5)
    assert [type(one) for one in got] == [NoAnswer, NoAnswer, Verdict, NoAnswer, NoAnswer]


def test_nobody_listens() -> None:
    url = dead_url()
    asked = judge(url)
    (error,) = ask(asked)
    assert isinstance(error, EndpointDown)
    assert str(error).startswith(f"{url}: cannot be reached (")
    assert "\n" not in str(error)
    assert asked.usage.requests == 3


def test_a_wrong_key_ends_it_at_once_and_is_not_shown() -> None:
    with endpoint(script(Reply(status=401, raw="no such key: sk-secret"))) as fake:
        (error,) = ask(judge(fake.url, api_key="sk-secret"))
        assert fake.headers[0]["Authorization"] == "Bearer sk-secret"
        assert len(fake.bodies) == 1
    assert isinstance(error, EndpointDown)
    assert "sk-secret" not in str(error)
    assert "check the API key" in str(error)


def test_a_slow_endpoint_is_not_waited_for_forever() -> None:
    over = threading.Event()

    def answer(body: dict[str, Any], number: int) -> Reply:
        over.wait(60)
        return Reply(GOOD)

    with endpoint(answer) as fake:
        (error,) = ask(judge(fake.url, timeout_s=0.05, max_retries=1))
        over.set()
    assert isinstance(error, NoAnswer)
    assert (error.reason, str(error)) == ("no answer in time", f"{fake.url}: no answer within 0.05 s")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Reply("seven, I think"), "not JSON"),
        (Reply('{"score": 11}'), "does not fit the schema"),
        (Reply('{"score": 7, "title": "and so on', finish="length"), "cut off at max_tokens"),
        (Reply(" "), "empty answer"),
    ],
)
def test_an_answer_that_does_not_fit_is_asked_for_once_more(bad: Reply, reason: str, tmp_path: Path) -> None:
    with endpoint(script(bad, Reply(GOOD))) as fake:
        assert ask(judge(fake.url)) == [Verdict(score=7, title="fine")]
        first, again = fake.prompts()
        assert first == "Rate this."
        assert again.startswith("Rate this.\n\n")
        assert reason in again
    with endpoint(script(bad)) as fake:
        asked = judge(fake.url, cache=tmp_path)
        (error,) = ask(asked)
        assert len(fake.bodies) == 2
    assert isinstance(error, NoAnswer)
    assert error.reason == reason
    assert asked.usage.failures == {reason: 1}
    assert list(tmp_path.rglob("*.json")) == []


@pytest.mark.parametrize(
    "raw", ["<html>gateway</html>", "{}", '{"choices": []}', '{"choices": [{"message": 1}]}']
)
def test_what_is_no_chat_completion_is_tried_again(raw: str) -> None:
    with endpoint(script(Reply(raw=raw), Reply(GOOD))) as fake:
        assert ask(judge(fake.url)) == [Verdict(score=7, title="fine")]


def test_an_endpoint_without_structured_output_gets_the_schema_in_the_prompt() -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        if "response_format" in body:
            return Reply(status=400, raw='{"error": "response_format is not supported"}')
        return Reply(f"<think>maybe {{3}}</think> Here you are:\n```json\n{GOOD}\n```")

    with endpoint(answer) as fake:
        assert ask(judge(fake.url), times=2) == [Verdict(score=7, title="fine")] * 2
        asked_for = [body.get("response_format", {}).get("type") for body in fake.bodies]
    # Refused three times; the second question knows.
    assert asked_for == ["json_schema", "json_schema", "json_object", None, None]
    assert '"maximum": 10' in fake.prompts()[-1]
    assert fake.bodies[0]["response_format"]["json_schema"]["strict"] is True


def test_an_endpoint_that_wants_other_parameters_gets_them() -> None:
    def answer(body: dict[str, Any], number: int) -> Reply:
        if "max_tokens" in body:
            return Reply(status=400, raw="'max_tokens' is not supported, use 'max_completion_tokens'")
        if "temperature" in body:
            return Reply(status=400, raw="'temperature' does not support 0")
        return Reply(GOOD)

    with endpoint(answer) as fake:
        assert ask(judge(fake.url)) == [Verdict(score=7, title="fine")]
        assert len(fake.bodies) == 3
        assert fake.bodies[-1]["max_completion_tokens"] == 1024


def test_a_question_that_is_too_long_fails_alone() -> None:
    said = "'max_tokens' or 'max_completion_tokens' is too large: this model's maximum context length is 9"
    with endpoint(script(Reply(status=400, raw=said), Reply(GOOD))) as fake:
        asked = judge(fake.url)
        error, fine = ask(asked, times=2)
        assert len(fake.bodies) == 2
    assert isinstance(error, NoAnswer)
    assert error.reason == "HTTP 400"
    assert fine == Verdict(score=7, title="fine")


def test_a_kept_answer_needs_no_endpoint(tmp_path: Path) -> None:
    with endpoint(script(Reply(GOOD))) as fake:
        assert ask(judge(fake.url, cache=tmp_path), times=2) == [Verdict(score=7, title="fine")] * 2
        assert len(fake.bodies) == 1
    elsewhere = judge(dead_url(), cache=tmp_path)
    assert ask(elsewhere) == [Verdict(score=7, title="fine")]
    assert (elsewhere.usage.cache_hits, elsewhere.usage.requests) == (1, 0)


def test_another_sampling_is_another_question_and_a_damaged_file_is_none(tmp_path: Path) -> None:
    with endpoint(script(Reply(GOOD))) as fake:
        ask(judge(fake.url, cache=tmp_path))
        ask(judge(fake.url, cache=tmp_path), sampling=ChatSampling(seed=1))
        ask(judge(fake.url, cache=tmp_path), sampling=ChatSampling(temperature=0.5))
        assert len(fake.bodies) == 3
        assert [body.get("seed") for body in fake.bodies] == [None, 1, None]
        files = sorted(tmp_path.rglob("*.json"))
        assert len(files) == 3
        for file, damage in zip(files, ("", '{"text": "{', "[]"), strict=True):
            file.write_text(damage)
        ask(judge(fake.url, cache=tmp_path))
        assert len(fake.bodies) == 4
        assert "Rate this" not in "".join(file.read_text() for file in tmp_path.rglob("*.json"))


def test_no_more_questions_at_a_time_than_allowed() -> None:
    async def many(asked: Judge) -> None:
        questions = ([{"role": "user", "content": str(number)}] for number in range(12))
        await asyncio.gather(*(asked.ask(question, Verdict) for question in questions))
        await asked.aclose()

    three = threading.Barrier(3)

    def answer(body: dict[str, Any], number: int) -> Reply:
        three.wait(60)  # nobody is answered before three have asked
        return Reply(GOOD)

    with endpoint(answer) as fake:
        asyncio.run(many(judge(fake.url, concurrency=3, timeout_s=60)))
        assert len(fake.bodies) == 12
        assert fake.busiest == 3


def test_a_schema_asks_for_every_field_and_can_do_without_bounds() -> None:
    full = json_schema(Verdict, portable=False)
    assert full["required"] == ["score", "title"]
    assert full["additionalProperties"] is False
    assert full["properties"] == {
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "title": {"type": "string"},
    }
    assert not UNPORTABLE & set(json.dumps(json_schema(Verdict, portable=True)).split('"'))


def test_the_last_object_that_fits_counts() -> None:
    assert read_object('{"score": 1} no: {"score": 2} {"mood": 3}', Verdict).score == 2
    for hopeless in ("{" * 5000, '{"a":' * 5000, "", "{}"):
        with pytest.raises(Unusable):
            read_object(hopeless, Verdict)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://host:port", "http://"])
def test_what_is_no_url_is_said_at_once(url: str) -> None:
    with pytest.raises(ConfigError):
        judge(url)


@pytest.mark.parametrize("key", ["", "two\nlines", "clé"])
def test_what_is_no_key_is_said_at_once(key: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        judge("http://localhost:1", api_key=key)
