"""`POST /v1/user/profiles`: users drawn from the population of the model served."""

import asyncio
from collections.abc import Iterator

import httpx2
import pytest

import usersim
from serve.app import create_app
from serve.config import ServeConfig
from tests.serve.conftest import serving
from usersim.populations.fit import fit_population
from usersim.populations.people import LoggedPerson
from usersim.populations.sample import Population
from usersim.testing import ScriptedSampler
from usersim.types import Style, UserProfile
from usersim.users.userlm import UserLM


@pytest.fixture(scope="module")
def population() -> Population:
    people = [
        LoggedPerson("logs", Style(turns=1, words_per_turn=n, questions=n % 2), True, frozenset(["student"]))
        for n in range(60)
    ]
    return Population(fit_population(people))


@pytest.fixture(scope="module")
def url(renderer, population: Population) -> Iterator[str]:
    config = ServeConfig(names=("userlm",), models={"coach": "adapter-v1"})
    user = UserLM(renderer, ScriptedSampler(), name="bytes")
    with serving(create_app(config, user, population=population), config) as where:
        yield where


def test_users_are_those_of_the_population(url: str, http: httpx2.Client, population: Population) -> None:
    response = http.post(f"{url}/v1/user/profiles", json={"n": 3, "seed": 7, "model": "userlm"})
    body = response.json()
    assert response.status_code == 200
    assert (body["object"], body["model"], body["seed"], body["distance"]) == (
        "user.profiles",
        "userlm",
        7,
        0.01,
    )
    assert body["profiles"] == [p.model_dump(exclude_none=True) for p in population.sample(3, 7)]
    assert body["profiles"][0]["persona"]["description"] == "student"


def test_a_drawn_seed_is_told_and_gives_the_same_users(url: str, http: httpx2.Client) -> None:
    first = http.post(f"{url}/v1/user/profiles", json={}).json()
    again = http.post(f"{url}/v1/user/profiles", json={"seed": first["seed"]}).json()
    assert len(first["profiles"]) == 1
    assert again["profiles"] == first["profiles"]
    assert 0 <= first["seed"] < 2**53


def test_both_clients_draw_the_same_profiles(url: str, population: Population) -> None:
    async def remote() -> list[UserProfile]:
        user = usersim.connect(url)
        try:
            return await user.profiles(4, seed=1)
        finally:
            await user.aclose()

    assert asyncio.run(remote()) == population.sample(4, 1)
    with usersim.connect(url, sync=True) as user:
        assert user.profiles(4, seed=1) == population.sample(4, 1)


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"n": 0}, 400, "invalid_request", "n"),
        ({"n": 513}, 400, "invalid_request", "n"),
        ({"n": "3"}, 400, "invalid_request", "n"),
        ({"seed": 2**63}, 400, "invalid_request", "seed"),
        ({"goal": "x"}, 400, "invalid_request", "goal"),
        ({"model": "gpt"}, 404, "model_not_found", "model"),
        ({"model": "coach"}, 404, "population_not_found", "model"),
    ],
)
def test_what_cannot_be_drawn_is_refused(url, http, body, status, code, param) -> None:
    response = http.post(f"{url}/v1/user/profiles", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)


def test_a_model_without_a_population_says_how_to_get_one(start_server, http) -> None:
    response = http.post(start_server(ScriptedSampler()) + "/v1/user/profiles", json={})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "population_not_found")
    assert "usersim population fit" in error["message"]
