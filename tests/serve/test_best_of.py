"""The best of n candidates over HTTP: chosen, counted, and refused where nothing can choose."""

from collections.abc import Iterator

import numpy as np
import pytest

import usersim
from serve.app import create_app
from serve.config import ServeConfig
from tests.serve.conftest import serving
from usersim.testing import ScriptedSampler
from usersim.users.discriminator import BUCKETS, FORM, TurnDiscriminator
from usersim.users.protocols import Sampling
from usersim.users.userlm import UserLM

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello! Which city?"}]


@pytest.fixture
def url(words, renderer) -> Iterator[str]:
    weights = np.zeros(BUCKETS + len(FORM), dtype=np.float16)
    weights[BUCKETS + FORM.index("question")] = 1
    sampler = ScriptedSampler(*[words(text) for text in ("no", "why?")] * 3)
    config = ServeConfig(names=("userlm",))
    user = UserLM(
        renderer, sampler, name="bytes", discriminator=TurnDiscriminator(weights, renderer.fingerprint, None)
    )
    with serving(create_app(config, user), config) as where:
        yield where


def test_all_drawn_tokens_are_counted(url, http) -> None:
    answer = http.post(f"{url}/v1/user/turns", json={"messages": MESSAGES, "best_of": 2}).json()
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "why?"
    assert (choice["tokens"], choice["drawn_tokens"]) == (5, 8)
    assert answer["usage"]["completion_tokens"] == 8
    plain = http.post(f"{url}/v1/user/turns", json={"messages": MESSAGES}).json()
    assert plain["usage"]["completion_tokens"] == plain["choices"][0]["tokens"] == 3
    assert "drawn_tokens" not in plain["choices"][0]


def test_the_client_asks_by_its_sampling(url) -> None:
    with usersim.connect(url, sync=True) as user:
        history = usersim.as_turns(MESSAGES)
        (turn,) = user.sample(usersim.UserProfile(), history, sampling=Sampling(best_of=2))
    assert (turn.text, turn.drawn_tokens) == ("why?", 8)


def test_a_stream_has_one_candidate(url, http) -> None:
    answer = http.post(f"{url}/v1/user/turns", json={"messages": MESSAGES, "best_of": 2, "stream": True})
    assert answer.status_code == 400
    assert "one candidate" in answer.json()["error"]["message"]


def test_without_a_discriminator_it_is_refused(start_server, words, http) -> None:
    where = start_server(ScriptedSampler(words("rome")))
    answer = http.post(f"{where}/v1/user/turns", json={"messages": MESSAGES, "best_of": 2})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "best_of"
    assert "fit-discriminator" in answer.json()["error"]["message"]
