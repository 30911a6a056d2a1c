"""An act asked for over HTTP reaches the prompt, and a model that was not trained for it says so."""

from collections.abc import Iterator

import httpx2
import pytest

import usersim
from serve.app import create_app
from serve.config import ServeConfig
from tests.serve.conftest import SETTINGS, byte_tokenizer, serving
from usersim.errors import ConfigError, RenderError
from usersim.rendering.renderer import Renderer
from usersim.testing import ScriptedSampler
from usersim.users.userlm import UserLM

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello! Which city?"}]


@pytest.fixture
def sampler(words) -> ScriptedSampler:
    return ScriptedSampler(*[words("rome")] * 4)


@pytest.fixture
def url(sampler: ScriptedSampler) -> Iterator[str]:
    conditioned_renderer = Renderer(byte_tokenizer(), SETTINGS.model_copy(update={"acts": True}))
    config = ServeConfig(names=("userlm",))
    with serving(create_app(config, UserLM(conditioned_renderer, sampler, name="bytes")), config) as where:
        yield where


def prompt(sampler: ScriptedSampler, renderer: Renderer) -> str:
    return renderer.decode(sampler.prompts[-1])


def test_the_model_is_told_the_act_by_every_way_of_asking(url, sampler, renderer, http) -> None:
    sent = http.post(f"{url}/v1/user/turns", json={"messages": MESSAGES, "act": "objects"})
    assert sent.json()["choices"][0]["message"]["content"] == "rome"
    rendered_prompt = prompt(sampler, renderer)
    plain = http.post(f"{url}/v1/user/turns", json={"messages": MESSAGES})
    assert plain.status_code == 200
    assert rendered_prompt != prompt(sampler, renderer)
    with usersim.connect(url, sync=True) as user:
        usersim.sample(turns=MESSAGES, act="objects", user=user)
        assert prompt(sampler, renderer) == rendered_prompt
        list(user.stream(usersim.UserProfile(), usersim.as_turns(MESSAGES), act="objects"))
        assert prompt(sampler, renderer) == rendered_prompt


def test_an_unknown_act_is_refused(url, http: httpx2.Client) -> None:
    answer = http.post(f"{url}/v1/user/turns", json={"messages": MESSAGES, "act": "dances"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "act"


def test_a_model_that_was_not_trained_to_be_told_says_so(start_server, words) -> None:
    user = usersim.connect(start_server(ScriptedSampler(words("rome"))))
    with pytest.raises(RenderError, match="act=asks: this model was not trained"):
        usersim.sample(turns=MESSAGES, act="asks", user=user)


def test_a_plain_function_cannot_be_told() -> None:
    with pytest.raises(ConfigError, match="only a User LM"):
        usersim.sample(turns=MESSAGES, act="asks", user=lambda turns: "rome")
