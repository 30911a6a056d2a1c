"""Import rules of docs/ARCHITECTURE.md, checked on the source."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from usersim.renamed_modules import RENAMED

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


MOST_MODULES = 16
"""In one folder, `__init__.py` and `__main__.py` aside."""
MOST_SAME_STEMS = 3
STEMS_OF_THEIR_OWN = {"__init__", "__main__", "command"}


def modules() -> dict[str, Path]:
    """Dotted name → file of every module of the five packages; a package is its `__init__.py`."""
    named = {}
    for package in (CORE, *APPLICATIONS):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def import_targets(tree: ast.Module, known: dict[str, Path]) -> set[str]:
    """Modules of `known` that the code imports, `if TYPE_CHECKING` aside: `from package import module` is one."""
    only_typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    names = set()
    for node in set(ast.walk(tree)) - only_typing:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    targets = set()
    for name in names:
        while name and name not in known:
            name = name.rpartition(".")[0]
        targets.add(name)
    return targets - {"", CORE, *APPLICATIONS}


@cache
def folder_arrows() -> dict[str, dict[str, set[str]]]:
    """Folder → child → children that it imports; children are the folder's modules and its subfolders."""
    known, arrows = modules(), defaultdict[str, dict[str, set[str]]](lambda: defaultdict(set))
    for name, path in known.items():
        importer = name.split(".") + ["__init__"] * (path.name == "__init__.py")
        for target in import_targets(ast.parse(path.read_text(encoding="utf-8")), known):
            imported = target.split(".")
            depth = next(
                (i for i, (a, b) in enumerate(zip(importer, imported, strict=False)) if a != b), len(imported)
            )
            # A package's own `__init__.py` may gather what is in it.
            if 0 < depth < len(imported) and importer[depth] != "__init__":
                arrows[".".join(importer[:depth])][importer[depth]].add(imported[depth])
    return arrows


def cycle_in(graph: dict[str, set[str]]) -> tuple[str, ...]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return tuple(error.args[1])
    return ()


@pytest.mark.parametrize("package", [CORE, *APPLICATIONS])
def test_folders_import_each_other_in_one_direction(package: str) -> None:
    cycles = {
        folder: cycle
        for folder, graph in folder_arrows().items()
        if folder.partition(".")[0] == package and (cycle := cycle_in(graph))
    }
    assert cycles == {}


def test_a_cycle_between_folders_is_seen() -> None:
    assert set(cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}}) == ()
    arrows = folder_arrows()
    assert "storage" in arrows["usersim"]["users"]
    assert "samples" in arrows["eval.fidelity"]["metrics"]


def test_folders_hold_few_modules() -> None:
    counts = Counter(path.parent for path in modules().values() if path.stem not in ("__init__", "__main__"))
    assert {str(folder): count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_module_names_say_what_they_hold() -> None:
    counts = Counter(path.stem for path in modules().values() if path.stem not in STEMS_OF_THEIR_OWN)
    assert {stem: count for stem, count in counts.items() if count > MOST_SAME_STEMS} == {}


def test_renamed_modules_lead_to_modules_and_warn() -> None:
    known = modules()
    assert {old: new for old, new in RENAMED.items() if new not in known or old in known} == {}
    code = (
        "import warnings; warnings.simplefilter('always')\n"
        "from usersim import style\n"
        "from serve.strict import StrictRoute\n"
        "import usersim.text.style as new, serve.http.strict_json as strict\n"
        "assert style is new and StrictRoute is strict.StrictRoute\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "<string>:2: DeprecationWarning: usersim.style is now usersim.text.style" in done.stderr
