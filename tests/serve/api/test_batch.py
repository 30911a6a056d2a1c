"""`POST /v1/user/turns/batch`: independent turns, each with a result or an error of its own."""

import asyncio
from typing import Any

import httpx2
import pytest

from usersim.errors import BackendError
from usersim.testing import ScriptedSampler
from usersim.users.protocols import Draw, Sampled

GOOD: dict[str, Any] = {"goal": "plan a trip"}


def send(http: httpx2.Client, url: str, items: Any) -> httpx2.Response:
    return http.post(f"{url}/v1/user/turns/batch", json={"items": items})


class Together(ScriptedSampler):
    """Sampler that waits for `parties` requests, then answers each with its own seed as text."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.waiting, self.parties, self.all_here = 0, parties, asyncio.Event()

    async def sample(self, request: Draw) -> list[Sampled]:
        self.waiting += 1
        if self.waiting == self.parties:
            self.all_here.set()
        await self.all_here.wait()
        assert request.seed is not None
        await asyncio.sleep(0.001 * (self.parties - request.seed))  # the last is ready first
        self.continuations = [[*map(ord, str(request.seed)), 257]]
        return await super().sample(request)


def test_all_items_are_under_way_at_once_and_their_order_is_kept(start_server, http, renderer) -> None:
    answer = send(
        http, start_server(Together(64)), [{**GOOD, "seed": seed, "common_noise": True} for seed in range(64)]
    ).json()
    assert answer["object"] == "user.turn.batch"
    assert [result["index"] for result in answer["results"]] == list(range(64))
    assert [result["status"] for result in answer["results"]] == [200] * 64
    seeds = [result["body"]["choices"][0]["seed"] for result in answer["results"]]
    assert seeds == list(range(64))
    texts = [result["body"]["choices"][0]["message"]["content"] for result in answer["results"]]
    assert texts == [renderer.decode([*map(ord, str(seed))]).strip() for seed in seeds]


def test_a_bad_item_fails_alone(start_server, http, words) -> None:
    bad: list[tuple[dict[str, Any], int, str]] = [
        ({"gaol": "a typo"}, 400, "invalid_request"),
        ({"messages": [{"role": "user", "content": "no answer yet"}]}, 400, "invalid_request"),
        ({"model": "gpt-4o"}, 404, "model_not_found"),
        ({"stream": True}, 400, "invalid_request"),
        ({"messages": [{"role": "assistant", "content": "x" * 70_000}]}, 400, "invalid_request"),
    ]
    url = start_server(ScriptedSampler(words("a train"), words("a bus")))
    items = [GOOD, *(item for item, _, _ in bad), GOOD]
    results = send(http, url, items).json()["results"]
    assert [result["status"] for result in results] == [200, *(status for _, status, _ in bad), 200]
    assert [result["error"]["code"] for result in results[1:-1]] == [code for _, _, code in bad]
    assert all(result["body"] is None for result in results[1:-1])
    assert len(str(results)) < 10_000, "complaints do not carry the input back"


def test_an_engine_that_fails_for_one_item_fails_that_item(start_server, http, words) -> None:
    class Failing(ScriptedSampler):
        async def sample(self, request: Draw) -> list[Sampled]:
            if request.seed == 1:
                raise BackendError("secret socket", retryable=True)
            if request.seed == 2:
                raise ZeroDivisionError("secret bug")
            return await super().sample(request)

    url = start_server(Failing(words("a train")))
    results = send(http, url, [{**GOOD, "seed": seed, "common_noise": True} for seed in range(3)]).json()[
        "results"
    ]
    assert [result["status"] for result in results] == [200, 503, 500]
    assert [result["error"] and result["error"]["code"] for result in results] == [
        None,
        "engine_unavailable",
        "internal_error",
    ]
    assert "secret" not in str(results)


@pytest.mark.parametrize(
    "body",
    [{}, {"items": []}, {"items": [GOOD] * 65}, {"items": ["text"]}, {"items": [GOOD], "n": 2}, []],
    ids=["nothing", "empty", "too-many", "no-object", "unknown", "list"],
)
def test_only_a_malformed_envelope_fails_the_whole(start_server, http, body: Any) -> None:
    response = http.post(start_server(ScriptedSampler()) + "/v1/user/turns/batch", json=body)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


def test_the_document_says_what_an_item_is(start_server, http) -> None:
    schemas = http.get(start_server(ScriptedSampler()) + "/openapi.json").json()["components"]["schemas"]
    assert schemas["BatchRequest"]["properties"]["items"]["items"]["$ref"].endswith("/UserTurnRequest")
    assert "UserTurnRequest" in schemas
