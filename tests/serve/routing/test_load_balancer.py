import asyncio
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import httpx2
import pytest

from serve.config import ServeLimits
from serve.http.errors import DeadlineError
from serve.routing.load_balancer import LoadBalancer, _select_engine
from tests.serve.engines import FakeEngine, _pair, eventually, pair  # noqa: F401
from usersim.errors import BackendError
from usersim.rendering.renderer import Renderer
from usersim.users.protocols import Draw, Sampling

T = TypeVar("T")
Pair = tuple[FakeEngine, FakeEngine]
DRAW = Draw([1, 2, 3], [257], 258, Sampling(max_tokens=8))


@asynccontextmanager
async def pooled(*engines: FakeEngine, **settings: Any) -> AsyncIterator[LoadBalancer]:
    pool = LoadBalancer([engine.url for engine in engines], **settings)
    try:
        yield pool
    finally:
        await pool.aclose()


def run(what: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(what)


def counted(pool: LoadBalancer, name: str, **labels: str) -> float:
    return pool.metrics.registry.get_sample_value(name, labels) or 0.0


async def until(what: Any, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def test_the_engine_with_the_least_to_do_answers() -> None:
    async def chosen() -> None:
        async with pooled_urls("http://a", "http://b") as pool:
            a, b = pool._engines
            assert _select_engine([a, b], None) is a
            with a.track(2), b.track(1):
                assert _select_engine([a, b], None) is b

    run(chosen())


@asynccontextmanager
async def pooled_urls(*urls: str) -> AsyncIterator[LoadBalancer]:
    pool = LoadBalancer(urls)
    try:
        yield pool
    finally:
        await pool.aclose()


def test_a_conversation_stays_with_its_engine_until_that_one_is_much_busier() -> None:
    async def homes() -> None:
        async with pooled_urls("http://a", "http://b", "http://c") as pool:
            engines = pool._engines
            names = [f"conversation {number}" for number in range(300)]
            home = {name: _select_engine(engines, name) for name in names}
            shares = [sum(engine is chosen for chosen in home.values()) for engine in engines]
            assert min(shares) > 60  # a third each, four standard errors
            # When one goes, only its own conversations move.
            left = {name: _select_engine(engines[:2], name) for name in names}
            assert all(left[name] is home[name] for name in names if home[name] is not engines[2])
            own = home[names[0]]
            with own.track(8):
                assert _select_engine(engines, names[0]) is own
            with own.track(9):
                assert _select_engine(engines, names[0]) is not own

    run(homes())


@pytest.mark.parametrize("fault", ["500", "503", "abort", "disconnect", "cut"])
def test_what_one_engine_cannot_another_does(pair: Pair, fault: str) -> None:  # noqa: F811
    first, second = pair
    first.fault(fault)

    async def scenario() -> None:
        async with pooled(first, second) as pool:
            completions = await pool.sample(DRAW)
            assert bytes(completions[0].token_ids[:-1]) == b"hello"
            assert counted(pool, "usersim_engine_healthy", engine=first.url) == 0
            assert counted(pool, "usersim_engine_retries_total") == 1
            before = first.turns()
            await pool.sample(DRAW)
            assert first.turns() == before  # out of rotation: no further request fails
            first.fault("none")
            await until(lambda: counted(pool, "usersim_engine_healthy", engine=first.url) == 1)

    run(scenario())


def test_a_hiccup_of_the_only_engine_reaches_nobody(pair: Pair) -> None:  # noqa: F811
    engine = pair[0]

    async def scenario() -> None:
        async with pooled(engine) as pool:
            await pool.sample(DRAW)  # the connection is pooled now
            for fault in ("disconnect", "cut", "500"):
                engine.fault(fault, times=1)
                completions = await asyncio.gather(*(pool.sample(DRAW) for _ in range(5)))
                assert all(bytes(each[0].token_ids[:-1]) == b"hello" for each in completions)

    run(scenario())


@pytest.mark.parametrize("fault", ["400", "garbage", "not-json", "fewer"])
def test_what_would_fail_again_is_not_asked_again(pair: Pair, fault: str) -> None:  # noqa: F811
    first, second = pair
    first.fault(fault)

    async def scenario() -> int:
        async with pooled(first, second) as pool:
            before = second.turns()
            with pytest.raises(BackendError) as raised:
                await pool.sample(DRAW)
            assert not raised.value.retryable
            return second.turns() - before

    assert run(scenario()) == 0


def test_a_request_is_tried_three_times_and_no_more(pair: Pair) -> None:  # noqa: F811
    for engine in pair:
        engine.fault("500")

    async def scenario() -> None:
        async with pooled(*pair) as pool:
            before = sum(engine.turns() for engine in pair)
            with pytest.raises(BackendError) as raised:
                await pool.sample(DRAW)
            assert raised.value.retryable
            assert sum(engine.turns() for engine in pair) - before <= 3
            asked_for = sum(engine.turns() for engine in pair)
            with pytest.raises(BackendError, match="no engine"):
                await pool.sample(DRAW)
            assert sum(engine.turns() for engine in pair) == asked_for  # known to be away: said at once
            assert not await pool.ready(5)

    run(scenario())


def test_a_silent_engine_meets_the_deadline_and_is_then_known_to_hang(pair: Pair) -> None:  # noqa: F811
    engine = pair[0]

    async def scenario() -> None:
        async with pooled(engine, timeout_s=0.5, limits=ServeLimits(probe_s=0.5)) as pool:
            assert await pool.ready(5)
            engine.signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(DeadlineError):
                await pool.sample(DRAW)
            assert time.monotonic() - began < 5
            await until(lambda: counted(pool, "usersim_engine_healthy", engine=engine.url) == 0)
            assert not await pool.ready(600)
            with pytest.raises(BackendError, match="no engine"):
                await pool.sample(DRAW)
            engine.signal(signal.SIGCONT)
            await until(lambda: counted(pool, "usersim_engine_healthy", engine=engine.url) == 1)
            assert await pool.ready(600)

    run(scenario())


def test_what_waits_for_an_engine_that_hangs_goes_to_another(pair: Pair) -> None:  # noqa: F811
    first, second = pair
    first.fault("hang")

    async def scenario() -> None:
        async with pooled(first, second, limits=ServeLimits(probe_s=0.3, silent_s=0.3)) as pool:
            completions = await asyncio.gather(*(pool.sample(DRAW) for _ in range(6)))
            assert all(bytes(each[0].token_ids[:-1]) == b"hello" for each in completions)
            assert counted(pool, "usersim_samples_in_flight") == 0

    run(scenario())


def test_a_busy_engine_that_is_slow_over_a_probe_stays(pair: Pair) -> None:  # noqa: F811
    engine = pair[0]
    engine.fault("slow-probes")

    async def scenario() -> None:
        async with pooled(engine, limits=ServeLimits(probe_s=0.2)) as pool:
            draw = asyncio.create_task(pool.sample(DRAW))
            before = engine.turns()
            await until(lambda: engine.turns() == before + 1)
            assert not await pool.ready(0)
            assert counted(pool, "usersim_engine_healthy", engine=engine.url) == 1
            await draw

    run(scenario())


def test_a_stream_starts_again_elsewhere_only_before_its_first_token(pair: Pair) -> None:  # noqa: F811
    first, second = pair

    async def streamed_tokens(pool: LoadBalancer) -> list[int]:
        ids: list[int] = []
        async with aclosing(pool.stream(DRAW)) as pieces:
            async for piece in pieces:
                ids += piece.token_ids
        return ids

    async def scenario() -> None:
        async with pooled(first, second) as pool:
            first.fault("503", times=1)
            assert bytes((await streamed_tokens(pool))[:-1]) == b"hello"
            for fault in ("stream-cut", "stream-error", "stream-abort"):
                first.fault("none")
                await until(lambda: counted(pool, "usersim_engine_healthy", engine=first.url) == 1)
                first.fault(fault)
                before = second.turns()
                with pytest.raises(BackendError):
                    await streamed_tokens(pool)
                assert second.turns() == before
            assert counted(pool, "usersim_samples_in_flight") == 0

    run(scenario())


def test_an_engine_that_comes_back_as_another_model_stays_away(
    pair: Pair,  # noqa: F811
    renderer: Renderer,
) -> None:
    first, second = pair

    async def scenario() -> None:
        async with pooled(first, second, renderer=renderer) as pool:
            first.kill()
            await pool.sample(DRAW)
            assert counted(pool, "usersim_engine_healthy", engine=first.url) == 0
            await asyncio.to_thread(first.start, "tokens")
            # Its token came, and it was looked at and left away: else there would be no second probe.
            await until(lambda: len(first.seen()["requests"]) >= 2)
            assert counted(pool, "usersim_engine_healthy", engine=first.url) == 0
            first.fault("none")
            await until(lambda: counted(pool, "usersim_engine_healthy", engine=first.url) == 1)

    run(scenario())


def test_a_live_engine_that_hangs_is_not_ready(start_server, pair: Pair, http: httpx2.Client) -> None:  # noqa: F811
    engine = pair[0]
    engine.fault("hang")
    assert http.get(f"{engine.url}/health").status_code == 200
    url = start_server(LoadBalancer([engine.url], limits=ServeLimits(probe_s=0.3)), ready_for_s=600)
    for _ in range(3):
        assert http.get(f"{url}/ready").status_code == 503
    text = http.get(f"{url}/metrics").text
    assert "usersim_engine_up 0.0" in text
    assert f'usersim_engine_healthy{{engine="{engine.url}"}} 0.0' in text
    engine.fault("none")
    eventually(lambda: http.get(f"{url}/ready").status_code == 200)


def test_a_full_engine_that_fails_one_request_keeps_the_others(pair: Pair) -> None:  # noqa: F811
    engine = pair[0]

    async def scenario() -> None:
        async with pooled(engine, limits=ServeLimits(probe_s=600)) as pool:
            before = engine.seen()["probes"]
            engine.fault("slow-probes")  # two seconds a turn, and no probe comes through
            draws = [asyncio.create_task(pool.sample(DRAW)) for _ in range(3)]
            await until(lambda: engine.seen()["most"] >= 3)
            engine.fault("500-slow-probes")
            failing = asyncio.create_task(pool.sample(DRAW))
            await until(lambda: counted(pool, "usersim_engine_failures_total", engine=engine.url) == 1)
            engine.fault("slow-probes")
            assert counted(pool, "usersim_engine_healthy", engine=engine.url) == 0
            completions = await failing  # waits for any answer of the engine, then is retried
            assert bytes(completions[0].token_ids[:-1]) == b"hello"
            assert engine.seen()["probes"] == before  # and not for a probe, each of which takes five minutes
            assert all(await asyncio.gather(*draws))

    run(scenario())
