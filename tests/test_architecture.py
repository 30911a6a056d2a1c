"""The rooms and the arrows between them: docs/ARCHITECTURE.md, checked on the source."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = "usersim"
APPLICATIONS = ("data_prep", "serve", "eval", "collab_train")
HEAVY = {"torch", "vllm", "transformers", "datasets", "trl", "peft", "sklearn", "fastapi", "numpy"}
# In pieces, so that this file does not hold what it looks for.
REGISTRIES = (
    "pypi" + ".org",
    "python" + "hosted.org",
    "download." + "pytorch.org",
    "registry." + "npmjs.org",
)
MACHINE_PATHS = re.compile("|".join(["/wor" + "k/", "/ro" + "ot/", "/op" + "t/pypi", "/op" + "t/wheels"]))
SHARED_FOLDER = ".." + "/shared"


def sources(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, wherever it stands; `import_module` of a literal counts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def arrows_into(package: str, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path, tree in sources(package)
        for line, module in imported(tree)
        if module.partition(".")[0] in forbidden
    ]


def test_the_core_imports_no_application() -> None:
    assert arrows_into(CORE, APPLICATIONS) == []


@pytest.mark.parametrize("application", APPLICATIONS)
def test_applications_never_import_each_other(application: str) -> None:
    assert (ROOT / application / "__init__.py").is_file()
    assert arrows_into(application, tuple(set(APPLICATIONS) - {application})) == []


@pytest.mark.parametrize("package", [CORE, *APPLICATIONS])
def test_nothing_shipped_imports_tests_scripts_or_benchmarks(package: str) -> None:
    assert arrows_into(package, ("tests", "scripts", "benchmarks")) == []


def test_the_builtin_eval_is_never_hidden() -> None:
    hidden = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in (CORE, *APPLICATIONS, "tests", "scripts", "benchmarks")
        for path, tree in sources(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.partition(".")[0] == "eval" and alias.asname is None
    ]
    assert hidden == [], "write `from eval.fidelity.metrics import …`"


def test_the_command_table_names_modules_that_exist() -> None:
    from usersim.__main__ import COMMANDS

    missing = [
        module
        for module, _ in COMMANDS.values()
        if not (ROOT / Path(*module.split("."))).with_suffix(".py").is_file()
    ]
    assert missing == []


@pytest.mark.parametrize("module", ["usersim", "usersim.__main__", "usersim.commands.doctor", *APPLICATIONS])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def texts_in_git() -> Iterator[tuple[Path, str]]:
    """Every file that git tracks or would track, as far as it is text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            raw = path.read_bytes()
            if b"\0" not in raw:
                yield Path(name), raw.decode("utf-8", errors="replace")


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(),
    reason="needs a git checkout to list its files",
)
def test_no_file_names_a_registry_or_a_machine() -> None:
    found = []
    for path, text in texts_in_git():
        for number, line in enumerate(text.splitlines(), start=1):
            if any(host in line for host in REGISTRIES) or MACHINE_PATHS.search(line):
                found.append(f"{path}:{number}: {line.strip()[:80]}")
            if path.suffix in (".py", ".toml") and SHARED_FOLDER in line:
                found.append(f"{path}:{number}: a folder outside the checkout: {line.strip()[:80]}")
    assert found == []
