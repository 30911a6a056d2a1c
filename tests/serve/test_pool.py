import asyncio

import httpx2
import pytest

import serve.service
from serve.pool import EnginePool
from usersim.render import Renderer
from usersim.sampling import UserLM
from usersim.types import UserProfile


def test_the_least_busy_engine_answers(fake_engine, renderer: Renderer) -> None:
    async def second_while_the_first_hangs() -> str:
        user = UserLM(renderer, EnginePool([fake_engine("hang"), fake_engine()]))
        stuck = asyncio.ensure_future(user(UserProfile(), []))
        await asyncio.sleep(0.2)
        said = [await user(UserProfile(), []) for _ in range(2)]
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        await user.aclose()
        return said[0].text and said[1].text

    assert asyncio.run(second_while_the_first_hangs())


def test_a_live_engine_that_hangs_is_not_ready(
    front, fake_engine, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.service, "PROBE_TIMEOUT_S", 0.3)
    engine = fake_engine("hang")
    assert http.get(f"{engine}/health").status_code == 200
    url = front(EnginePool([engine]), ready_for_s=600)
    for _ in range(3):
        assert http.get(f"{url}/ready").status_code == 503
    assert http.get(f"{engine}/hung").json()["begun"] == 1  # the answer is remembered, not probed again
    assert "usersim_engine_up 0.0" in http.get(f"{url}/metrics").text
