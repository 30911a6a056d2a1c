"""Defaults in code, departures in TOML, overrides on the command line; everything unknown is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from usersim.config import Config, load_config
from usersim.errors import ConfigError
from usersim.runs import RunDir


class Optim(Config):
    lr: float = 1e-3


class Toy(Config):
    name: str = "toy"
    steps: int = 3
    optim: Optim = Optim()


def test_toml_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text("steps = 5\n[optim]\nlr = 1e-5\n")
    assert load_config(Toy, file) == Toy(steps=5, optim=Optim(lr=1e-5))
    assert load_config(Toy, file, ["optim.lr=2e-4", "name=bare"]) == Toy(
        name="bare", steps=5, optim=Optim(lr=2e-4)
    )


@pytest.mark.parametrize(
    ("text", "overrides", "why"),
    [
        ("stpes = 5", [], "stpes"),
        ("steps = 'many'", [], "steps"),
        ("steps = ", [], "not TOML"),
        ("", ["steps"], "key=value"),
        ("", ["steps.lr=1"], "steps"),
        ("", ["optim.momentum=1"], "optim.momentum"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, overrides: list[str], why: str) -> None:
    file = tmp_path / "toy.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=why):
        load_config(Toy, file, overrides)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such config file"):
        load_config(Toy, "nowhere.toml")


def test_a_run_directory_takes_the_same_config_only(tmp_path: Path) -> None:
    RunDir(tmp_path / "run", Toy())
    RunDir(tmp_path / "run", Toy()).metric(step=1)
    with pytest.raises(ConfigError, match=r"differs in: steps"):
        RunDir(tmp_path / "run", Toy(steps=4))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"step": 1}\n'
