"""Requests made from the OpenAPI document, fitting and not: nothing that a client sends is the server's fault."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from serve.app import create_app
from serve.config import ServeConfig
from usersim.rendering.renderer import Renderer
from usersim.testing import ScriptedSampler
from usersim.users.guards import Guards
from usersim.users.userlm import UserLM

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: run `make setup`")
STATUSES = {200, 400, 404, 405, 413, 422}


class Talkative(ScriptedSampler):
    """Never runs out of words."""

    async def sample(self, request: Any) -> Any:
        self.continuations = [[*b"hello", 257]] * request.n
        return await super().sample(request)

    async def stream(self, request: Any) -> Any:
        self.continuations = [[*b"hello", 257]]
        async for piece in super().stream(request):
            yield piece


@pytest.fixture(scope="module")
def operations(renderer: Renderer) -> list[Any]:
    user = UserLM(renderer, Talkative(), guards=Guards.off(), name="bytes")
    app = create_app(ServeConfig(open_access=True), user)  # under whatever name it is called
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    return [result.ok() for result in schema.get_all_operations()]


@pytest.mark.parametrize("fits", [True, False], ids=["fitting", "not fitting"])
def test_whatever_is_sent_is_answered_or_refused_and_never_breaks(operations: list[Any], fits: bool) -> None:
    mode = schemathesis.GenerationMode.POSITIVE if fits else schemathesis.GenerationMode.NEGATIVE
    strategies = [
        operation.as_strategy(generation_mode=mode) for operation in operations if fits or operation.body
    ]
    statuses = set()

    @settings(
        max_examples=150, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.one_of(strategies))
    def holds(case: Any) -> None:
        response = case.call()
        statuses.add(case.path)
        assert response.status_code in STATUSES, (response.status_code, response.text[:300])
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            error = response.json()["error"]
            assert isinstance(error["code"], str)
            assert len(response.content) < 2000

    holds()
    assert "/v1/user/turns" in statuses
