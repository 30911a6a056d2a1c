import asyncio
import time

import pytest

from serve.config import ServeLimits
from serve.http import request_context
from serve.http.errors import DeadlineError, OverloadedError
from serve.http.metrics import EngineMetrics
from serve.http.request_context import RequestContext
from serve.routing.admission import Admission


def admission(places: int, **limits: float) -> Admission:
    return Admission(places, ServeLimits.model_validate(limits), EngineMetrics())


async def hold(gate: Admission, order: list[str], name: str, until: asyncio.Event, samples: int = 1) -> None:
    async with gate.slots(samples, 60):
        order.append(name)
        await until.wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def counted(gate: Admission, name: str, **labels: str) -> float:
    return gate.metrics.registry.get_sample_value(name, labels) or 0.0


def test_who_came_first_goes_first_and_n_samples_take_n_places() -> None:
    async def run() -> None:
        gate, order = admission(4), list[str]()
        first, second, large = (asyncio.Event() for _ in range(3))
        tasks = [asyncio.create_task(hold(gate, order, "three", first, 3))]
        await settle()
        tasks.append(asyncio.create_task(hold(gate, order, "two", second, 2)))
        tasks.append(asyncio.create_task(hold(gate, order, "one", large, 1)))
        await settle()
        assert order == ["three"]  # one would fit, but two were there before
        assert counted(gate, "usersim_queue_length") == 2
        first.set()
        await settle()
        assert order == ["three", "two", "one"]
        second.set()
        large.set()
        await asyncio.gather(*tasks)
        assert gate.in_use == 0
        assert counted(gate, "usersim_queue_seconds_count") == 3

    asyncio.run(run())


def test_a_request_larger_than_everything_passes_alone() -> None:
    async def run() -> None:
        gate = admission(2)
        async with gate.slots(16, 60):
            assert gate.in_use == 2
        gate.resize(1)
        async with gate.slots(2, 60):
            assert gate.in_use == 1

    asyncio.run(run())


def test_a_full_queue_refuses_at_once_and_says_so() -> None:
    async def run() -> None:
        gate, order, over = admission(1, max_waiting=1), list[str](), asyncio.Event()
        tasks = [asyncio.create_task(hold(gate, order, name, over)) for name in "ab"]
        await settle()
        third = hold(gate, order, "c", over)
        with pytest.raises(OverloadedError, match="full"):
            third.send(None)  # without waiting for anything
        over.set()
        await asyncio.gather(*tasks)
        assert order == ["a", "b"]
        assert counted(gate, "usersim_admission_refused_total", why="full") == 1

    asyncio.run(run())


def test_nobody_waits_longer_than_told_nor_past_the_deadline() -> None:
    async def run() -> None:
        gate, over = admission(1, wait_s=0.05), asyncio.Event()
        holder = asyncio.create_task(hold(gate, [], "a", over))
        await settle()
        with pytest.raises(OverloadedError, match="too long"):
            await hold(gate, [], "b", over)
        with pytest.raises(DeadlineError):
            async with gate.slots(1, 0.01):
                pass
        over.set()
        await holder
        async with gate.slots(1, 60):  # those who left hold nothing
            assert gate.in_use == 1

    asyncio.run(run())


def test_a_cancelled_waiter_frees_its_place_in_the_queue() -> None:
    async def run() -> None:
        gate, order, over = admission(2, max_waiting=2), list[str](), asyncio.Event()
        holder = asyncio.create_task(hold(gate, order, "a", over))
        await settle()
        heavy = asyncio.create_task(hold(gate, order, "heavy", over, 2))
        light = asyncio.create_task(hold(gate, order, "light", over))
        await settle()
        assert order == ["a"]
        heavy.cancel()
        await asyncio.gather(heavy, return_exceptions=True)
        await settle()
        assert order == ["a", "light"]
        over.set()
        await asyncio.gather(holder, light)
        assert gate.in_use == 0

    asyncio.run(run())


def test_a_place_that_comes_to_one_who_is_leaving_is_not_lost() -> None:
    async def run() -> None:
        gate, over = admission(1), asyncio.Event()
        holder = asyncio.create_task(hold(gate, [], "a", over))
        await settle()
        waiter = asyncio.create_task(hold(gate, [], "b", over))
        await settle()
        gate.resize(2)  # grants the place …
        waiter.cancel()  # … in the very moment in which its owner leaves
        await asyncio.gather(waiter, return_exceptions=True)
        assert gate.in_use == 1
        over.set()
        await holder
        assert gate.in_use == 0

    asyncio.run(run())


def test_a_request_that_was_let_in_is_not_refused_for_its_second_draw() -> None:
    async def run() -> None:
        gate, order, over = admission(1, max_waiting=1), list[str](), asyncio.Event()
        between = asyncio.Event()

        async def twice() -> None:
            request_context.enter(
                RequestContext("r", "POST", "/v1/user/turns", deadline=time.monotonic() + 60)
            )
            async with gate.slots(1, 60):
                order.append("first draw")
            await between.wait()
            async with gate.slots(1, 60):
                order.append("second draw")

        again = asyncio.create_task(twice())
        await settle()
        others = [asyncio.create_task(hold(gate, order, name, over)) for name in "ab"]
        await settle()
        between.set()
        await settle()
        over.set()
        await asyncio.gather(again, *others)
        assert order == ["first draw", "a", "second draw", "b"]

    asyncio.run(run())
