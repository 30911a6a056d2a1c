"""A package that is missing: caught once, one line, and a cure that works where it is said."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import usersim
from usersim import extras
from usersim.__main__ import COMMANDS, EXTRAS, main
from usersim.errors import ConfigError

REQUIREMENTS = (
    "pydantic>=2",
    'torch>=2.9; extra == "local"',
    'peft>=0.21; extra == "local"',
    'torch>=2.9; extra == "train"',
    'trl==1.16.0; extra == "train"',
    'scikit-learn>=1.5; extra == "eval"',
    'uvloop; sys_platform == "nowhere" and extra == "serve"',
    'fastapi<0.137,>=0.133; extra == "serve"',
)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if installed from a wheel, with pydantic and peft beside it."""
    monkeypatch.setattr(extras, "is_checkout", lambda: False)
    monkeypatch.setattr(extras, "own_requirements", lambda: REQUIREMENTS)
    monkeypatch.setattr(extras, "installed_versions", lambda: {"pydantic": "2.12", "peft": "0.21"})


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize(
    ("module", "extra", "cure"),
    [
        ("torch", "train", "the package torch is missing; run `pip install 'torch>=2.9' trl==1.16.0`"),
        ("torch.nn", "local", "the package torch is missing; run `pip install 'torch>=2.9'`"),
        ("trl", "eval", "the package trl is missing; run `pip install 'torch>=2.9' trl==1.16.0`"),
        ("sklearn", "eval", "the package scikit-learn is missing; run `pip install 'scikit-learn>=1.5'`"),
        ("fastapi", None, "the package fastapi is missing; run `pip install 'fastapi<0.137,>=0.133'`"),
        ("usersim.nonsense", None, None),
        ("flash_attn", "train", None),
        (None, None, None),
    ],
)
def test_the_cure_lists_the_packages_that_are_missing(
    module: str | None, extra: str | None, cure: str | None
) -> None:
    assert extras.cure_for(module, extra) == cure


def test_in_a_checkout_the_cure_is_its_own_command() -> None:
    assert extras.is_checkout()
    assert extras.cure_for("torch", "train") == "the package torch is missing; run `make setup`"


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize("where", ["on import", "later"])
def test_every_command_says_it_in_one_line(
    where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(argv: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    module = ModuleType("half_installed")
    monkeypatch.setitem(sys.modules, "half_installed", module)
    if where == "later":
        module.main = fails  # type: ignore[attr-defined]
    else:
        monkeypatch.setattr("importlib.import_module", fails)
    monkeypatch.setitem(COMMANDS, "train", ("half_installed", ""))
    assert main(["train", "x.toml"]) == 2
    said = capsys.readouterr().err
    assert said == "usersim: the package torch is missing; run `pip install 'torch>=2.9' trl==1.16.0`\n"


def test_a_module_of_ours_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "train", ("usersim.nonsense", ""))
    with pytest.raises(ModuleNotFoundError):
        main(["train"])


@pytest.mark.usefixtures("wheel")
def test_python_says_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "usersim.backends.transformers_local", None)
    with pytest.raises(ConfigError, match=r"usersim\.connect\(url\)"):
        usersim.load(tmp_path)


def test_every_command_knows_its_packages() -> None:
    assert set(EXTRAS) | {"doctor"} == set(COMMANDS)
