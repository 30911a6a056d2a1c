"""Defaults in code, departures in TOML, overrides on the command line; everything unknown is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from usersim.__main__ import main
from usersim.commands.keys import CONFIGS
from usersim.errors import ConfigError
from usersim.storage.runs import RunDir
from usersim.storage.toml_config import Config, config_keys, keys_help, load_config


class Optim(Config):
    lr: float = 1e-3


class Toy(Config):
    name: str = "toy"
    """What it is called. More of it."""
    steps: int = 3
    optim: Optim = Optim()
    files: tuple[str, ...] = ("a.jsonl",)
    mode: Literal["x", "y"] | None = None


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


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stpes=5", "override 'stpes=5': unknown key 'stpes'; did you mean 'steps'?"),
        ("lr=1", "override 'lr=1': unknown key 'lr'; did you mean 'optim.lr'?"),
        ("optim.ler=1", "override 'optim.ler=1': unknown key 'optim.ler'; did you mean 'optim.lr'?"),
        ("zzz=1", "override 'zzz=1': unknown key 'zzz'; its keys are name, steps, optim.lr, files, mode"),
        ("steps=many", "override 'steps=many': steps: Input should be a valid integer"),
        ("optim={lr = 'x'}", "override \"optim={lr = 'x'}\": optim.lr: Input should be a valid number"),
    ],
)
def test_an_override_at_fault_is_named_and_not_the_file(tmp_path: Path, override: str, said: str) -> None:
    file = tmp_path / "toy.toml"
    file.write_text("steps = 4")
    with pytest.raises(ConfigError) as failure:
        load_config(Toy, file, ["name=x", override])
    assert str(failure.value).startswith(said)


def test_a_file_at_fault_is_named_and_not_an_override(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text("stpes = 4")
    with pytest.raises(ConfigError) as failure:
        load_config(Toy, file, ["steps=5"])
    assert str(failure.value) == f"{file}: unknown key 'stpes'; did you mean 'steps'?"


def test_one_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    file = tmp_path / "toy.toml"
    file.write_text('files = "b.jsonl"')
    assert load_config(Toy, file).files == ("b.jsonl",)
    assert load_config(Toy, file, ["files=c.jsonl"]).files == ("c.jsonl",)
    assert load_config(Toy, file, ['files=["c", "d"]']).files == ("c", "d")


def test_the_keys_of_a_config_are_listed_with_default_and_meaning() -> None:
    assert list(config_keys(Toy)) == [
        ("name", "toy", "What it is called. More of it."),
        ("steps", "3", ""),
        ("optim.lr", "0.001", ""),
        ("files", "a.jsonl", ""),
        ("mode", "(none)", "x | y"),
    ]
    assert keys_help(Toy).split("\n")[1] == "  name=toy        What it is called. More of it."


def test_every_help_lists_its_keys_or_says_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    for command in CONFIGS:
        with pytest.raises(SystemExit) as done:
            main([*command.split(), "--help"])
        assert done.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"usersim keys {command}" in said or "lora.rank=32" in said, command
    assert main(["keys", "serve"]) == 0
    assert "port=8000" in capsys.readouterr().out
    assert main(["keys", "nonsense"]) == 2


def test_the_keys_of_a_command_are_told_without_what_carries_it_out() -> None:
    code = (
        "import sys\nfrom usersim.commands.keys import CONFIGS, main\n"
        "assert all(main(command.split()) == 0 for command in CONFIGS)\n"
        "assert not {'torch', 'trl', 'transformers', 'peft', 'vllm'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_every_config_named_is_there() -> None:
    for place in CONFIGS.values():
        module, _, name = place.partition(":")
        file = Path(*module.split(".")).with_suffix(".py")
        assert f"class {name}(" in file.read_text(encoding="utf-8")


def test_a_help_text_loads_no_torch() -> None:
    """torch and TRL take ten seconds and more."""
    code = """
import sys
from usersim.__main__ import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, "--help"])
    except SystemExit:
        pass
    assert not {"torch", "trl", "transformers", "datasets", "vllm"} & set(sys.modules), command
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_directory_of_a_run_that_came_to_nothing_takes_a_corrected_config(tmp_path: Path) -> None:
    RunDir(tmp_path, Toy())
    (tmp_path / "base.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    RunDir(tmp_path, Toy(steps=4))
    assert not (tmp_path / "base.json").exists(), "of another base, perhaps"
    (tmp_path / "checkpoints" / "checkpoint-1").mkdir()
    with pytest.raises(ConfigError, match=r"differs in: steps"):
        RunDir(tmp_path, Toy(steps=5))
