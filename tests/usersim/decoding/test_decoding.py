"""Sampling parameters that a User LM carries: its defaults wherever a request or a config leaves them open."""

from __future__ import annotations

import asyncio

from serve.__main__ import sampling_of
from serve.config import ServeConfig
from tests.conftest import CHATML, byte_tokenizer
from tests.usersim.rendering.test_render import END, renderer
from usersim.decoding.parameters import Sampling
from usersim.rendering.renderer import Renderer, read_settings, write_settings
from usersim.storage.toml_config import load_config
from usersim.testing import ScriptedSampler
from usersim.users.protocols import as_profile
from usersim.users.userlm import UserLM

OWN = Sampling(temperature=0.8, top_p=0.9, max_tokens=48)


def carrying(decoding: Sampling | None) -> Renderer:
    settings = renderer().settings.model_copy(update={"decoding": decoding})
    return Renderer(byte_tokenizer(CHATML), settings)


def test_a_model_samples_as_it_says_unless_it_is_told() -> None:
    r = carrying(OWN)
    assert UserLM(r, ScriptedSampler()).sampling == OWN
    assert UserLM(carrying(None), ScriptedSampler()).sampling == Sampling()
    assert UserLM(r, ScriptedSampler(), sampling=Sampling(top_p=0.5)).sampling == Sampling(top_p=0.5)
    scripted = ScriptedSampler([*r.encode("rome"), END])
    assert asyncio.run(UserLM(r, scripted).sample(as_profile("eat"), []))[0].text == "rome"


def test_a_server_sets_only_what_its_config_sets() -> None:
    assert sampling_of(ServeConfig(), carrying(OWN)) == OWN
    warmer = load_config(ServeConfig, None, ["sampling.temperature=1.2"])
    assert sampling_of(warmer, carrying(OWN)) == Sampling(temperature=1.2, top_p=0.9, max_tokens=48)
    assert sampling_of(warmer, carrying(None)) == Sampling(temperature=1.2)


def test_it_is_kept_in_the_settings_and_changes_no_prompt(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with_own, without = carrying(OWN), carrying(None)
    assert with_own.fingerprint == without.fingerprint
    assert with_own.settings.uncalibrated() == without.settings.uncalibrated()
    write_settings(with_own.settings, tmp_path)
    assert read_settings(tmp_path).decoding == OWN
