"""Optional packages: their extras, and the command that installs missing ones."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "usersim-lm"
IMPORTED_AS = {"sklearn": "scikit-learn", "spellchecker": "pyspellchecker"}
"""Distribution by import name, where they differ."""
ROOT = Path(__file__).parent.parent


def is_checkout() -> bool:
    """Returns True in a clone, where `make setup` installs everything."""
    return (ROOT / "Makefile").is_file() and (ROOT / "scripts" / "setup.py").is_file()


def own_requirements() -> tuple[str, ...]:
    """Returns the requirements of usersim, extras included; empty if it is not installed as a distribution."""
    try:
        return tuple(metadata.requires(DISTRIBUTION) or ())
    except metadata.PackageNotFoundError:
        return ()


def installed_versions() -> dict[str, str]:
    """Returns the version of every installed distribution, by canonical name."""
    return {canonicalize_name(each.name): each.version for each in metadata.distributions() if each.name}


def extras_of(requirements: Iterable[str]) -> list[str]:
    return sorted({extra_of(Requirement(line)) for line in requirements} - {""})


def extra_of(required: Requirement) -> str:
    """Returns the extra in a marker such as `sys_platform == "linux" and extra == "gpu"`."""
    _, equals, rest = str(required.marker or "").partition('extra == "')
    return rest.partition('"')[0] if equals else ""


def missing_of(extra: str, requirements: Iterable[str], versions: Mapping[str, str]) -> list[Requirement]:
    """Returns the requirements of `extra` on this system that are not installed; "": of usersim itself."""
    return [
        required
        for required in map(Requirement, requirements)
        if extra_of(required) == extra
        and (required.marker is None or required.marker.evaluate({"extra": extra}))
        and canonicalize_name(required.name) not in versions
    ]


def pip_install(missing: Iterable[Requirement]) -> str:
    """Returns the pip command for packages. It cannot name the extra, since usersim is on no index."""
    return "pip install " + shlex.join(
        sorted({f"{each.name}{_extras(each)}{each.specifier}" for each in missing})
    )


def cure_for(module: str | None, extra: str | None = None) -> str | None:
    """Returns the cure for a failed `import module`; None if no extra has it, so that it is a bug.

    `extra`: the extra to install if several have the package.
    """
    top = (module or "").partition(".")[0]
    name = canonicalize_name(IMPORTED_AS.get(top, top))
    requirements = own_requirements()
    having = [
        extra_of(required)
        for required in map(Requirement, requirements)
        if canonicalize_name(required.name) == name
    ]
    if not having:
        return None
    if is_checkout():
        return f"the package {name} is missing; run `make setup`"
    chosen = extra if extra in having else having[0]
    missing = missing_of(chosen, requirements, installed_versions())
    return f"the package {name} is missing; run `{pip_install(missing)}`"


def _extras(required: Requirement) -> str:
    return f"[{','.join(sorted(required.extras))}]" if required.extras else ""
