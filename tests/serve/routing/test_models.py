"""Other models of the engines by alias, and a change of one under load."""

import asyncio
import contextlib
from pathlib import Path

import httpx2
import pytest

from serve.app import create_app
from serve.config import ServeConfig
from serve.http import request_context
from serve.routing.load_balancer import LoadBalancer, check_models
from tests.serve.conftest import serving
from tests.serve.engines import FakeEngine, _pair, pair  # noqa: F401
from usersim.errors import ConfigError
from usersim.users.protocols import Draw, Sampling
from usersim.users.userlm import UserLM

Pair = tuple[FakeEngine, FakeEngine]
DRAW = Draw([1, 2, 3], [257], 258, Sampling(max_tokens=40))


def test_a_draw_comes_from_the_model_that_its_task_asked_for(pair: Pair) -> None:  # noqa: F811
    async def sampled_text(pool: LoadBalancer, model: str | None) -> str:
        request_context.set_model(model)
        return bytes((await pool.sample(DRAW))[0].token_ids[:-1]).decode()

    async def at_once() -> list[str]:
        pool = LoadBalancer([engine.url for engine in pair])
        try:
            return await asyncio.gather(
                *(asyncio.create_task(sampled_text(pool, m)) for m in ("v1", None, "v2"))
            )
        finally:
            await pool.aclose()

    assert asyncio.run(at_once()) == ["v1", "hello", "v2"]


def test_a_model_that_the_engines_do_not_serve_is_an_error_at_start(pair: Pair) -> None:  # noqa: F811
    asyncio.run(check_models(pair[0].url, ["fake"]))
    with pytest.raises(ConfigError, match="does not serve adapter-9"):
        asyncio.run(check_models(pair[0].url, ["fake", "adapter-9"]))


def test_an_alias_changes_under_load_and_every_answer_has_one_author(
    pair: Pair,  # noqa: F811
    renderer,
    words,
    tmp_path: Path,
) -> None:
    for engine in pair:
        engine.fault("take-0.05")
    config = ServeConfig(names=("userlm",), models={"coach": "adapter-v1"})
    user = UserLM(renderer, LoadBalancer([engine.url for engine in pair], samples_per_engine=4), name="bytes")
    app = create_app(config, user)

    async def load(url: str) -> list[httpx2.Response]:
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
            requests = [
                asyncio.create_task(client.post(f"{url}/v1/user/turns", json={"model": "coach", "n": 2}))
                for _ in range(50)
            ]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
            app.state.service.models = {"coach": "adapter-v2"}
            late = [client.post(f"{url}/v1/user/turns", json={"model": "coach"}) for _ in range(5)]
            return [*await asyncio.gather(*requests), *await asyncio.gather(*late)]

    with serving(app) as url:
        answers = asyncio.run(load(url))
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        author = answer.headers["x-userlm-model"]
        # The fake engine says the name of the model that speaks, as ids that read as some text or other.
        spoken = renderer.read([*author.encode(), 257])[0]
        assert {choice["message"]["content"] for choice in answer.json()["choices"]} == {spoken}
    assert {answer.headers["x-userlm-model"] for answer in answers[-5:]} == {"adapter-v2"}
    assert "adapter-v1" in {answer.headers["x-userlm-model"] for answer in answers}
