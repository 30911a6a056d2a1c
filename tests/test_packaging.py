"""What is shipped, that nobody else ships it, and that it runs where there is no checkout."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("usersim", "data_prep", "serve", "eval", "collab_train")


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Stdout; the test fails with both streams if the command does."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed (extra dev): no wheel can be built")
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-index")
    run(*pip, "--no-deps", "--no-build-isolation", "-w", out, ROOT, cwd=out)
    (built,) = out.glob("usersim_lm-*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked by pip into a folder of its own; the libraries come from this environment."""
    target = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index")
    run(*pip, "--no-deps", "--no-compile", "--target", target, wheel, cwd=target)
    return target


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_no_other_distribution_claims_our_import_names() -> None:
    claimed = metadata.packages_distributions()
    others = {name: set(claimed.get(name, ())) - {"usersim-lm"} for name in PACKAGES}
    assert others == {name: set() for name in PACKAGES}


def test_the_wheel_holds_the_five_packages_and_nothing_else(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_and_data_file_is_shipped(names: set[str], package: str) -> None:
    tracked = run("git", "ls-files", "-z", package, cwd=ROOT).split("\0") if (ROOT / ".git").exists() else []
    assert {name for name in tracked if name and (ROOT / name).exists()} <= names


def test_every_package_says_that_it_is_typed(names: set[str]) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_the_wheel_carries_its_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "usersim = usersim.__main__:main" in archive.read(entry_points).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_the_command_works_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    where = run(
        sys.executable, "-c", "import usersim; print(usersim.__file__)", cwd=tmp_path, PYTHONPATH=str(site)
    )
    assert Path(where.strip()).is_relative_to(site)
    shown = run(sys.executable, site / "bin" / "usersim", "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert "usage: usersim COMMAND" in shown
    version = run(sys.executable, "-m", "usersim", "--version", cwd=tmp_path, PYTHONPATH=str(site))
    assert version == f"usersim {metadata.version('usersim-lm')}\n"


def setup_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_setup_asks_for_the_cpu_build_of_torch_first_and_for_vllm_last() -> None:
    steps = setup_script().plan("cpu")
    asked = [" ".join(step.pip) for step in steps]
    assert asked[1].endswith("torch==2.13.0+cpu")
    assert steps[1].otherwise[-1] == "torch==2.13.0"
    assert asked[-1] == "--no-deps -r requirements/no-deps-cpu.txt"
    assert all("lock-cpu.txt" in line for line in asked[:3])


def test_setup_with_a_gpu_leaves_the_cpu_engine_and_its_pins_out() -> None:
    asked = " ".join(part for step in setup_script().plan("gpu") for part in step.pip)
    assert "engine-gpu.txt" in asked
    assert "cpu" not in asked


def test_an_index_for_torch_is_used_for_torch_alone() -> None:
    steps = setup_script().plan("cpu", torch_index="file:///wheels")
    assert [step.what for step in steps if "file:///wheels" in step.pip] == ["torch==2.13.0 (CPU build)"]


def test_without_cuts_one_run_of_arguments() -> None:
    without = setup_script().without
    assert without(("-c", "b"), ("-c", "a", "-c", "b", "x")) == ("-c", "a", "x")
    assert without(("-c", "b"), ("x",)) == ("x",)


def test_setup_names_the_first_thing_pip_complained_of() -> None:
    complaint = setup_script().complaint
    assert complaint("Collecting x\nERROR: no x\nERROR: for help visit y\n") == "ERROR: no x"
    assert complaint("Traceback\nImportError: no z\nhint: see above\n") == "ImportError: no z"
    assert complaint("") == "no output"


def test_setup_ends_by_saying_how_to_reach_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = setup_script()
    monkeypatch.setattr(module, "is_done", lambda engine: True)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert module.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"setup: {module.ACTIVATION}"
    assert "`. .venv/bin/activate` (fish: `source .venv/bin/activate.fish`)" in module.ACTIVATION
    monkeypatch.setenv("VIRTUAL_ENV", str(module.VENV))
    assert module.main() == 0
    assert module.ACTIVATION not in capsys.readouterr().out


def test_half_installed_packages_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info", "~eftover"):
        (packages / name).mkdir(parents=True)
    (packages / "whole-1.dist-info" / "RECORD").touch()
    module = setup_script()
    monkeypatch.setattr(module, "VENV", tmp_path)
    module.sweep_half_installed()
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]
