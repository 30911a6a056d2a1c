"""The optional packages: which extra one belongs to, and one line that installs what is missing here."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "usersim-lm"
IMPORTED_AS = {"sklearn": "scikit-learn", "spellchecker": "pyspellchecker"}
"""Import names that are not the distribution's."""
ROOT = Path(__file__).parent.parent


def is_checkout() -> bool:
    """True in a clone, where `make setup` installs everything."""
    return (ROOT / "Makefile").is_file() and (ROOT / "scripts" / "setup.py").is_file()


def own_requirements() -> tuple[str, ...]:
    """Requirements of our own distribution, extras included; empty where it is not installed as one."""
    try:
        return tuple(metadata.requires(DISTRIBUTION) or ())
    except metadata.PackageNotFoundError:
        return ()


def installed_versions() -> dict[str, str]:
    """Version of every installed distribution, by canonical name."""
    return {canonicalize_name(each.name): each.version for each in metadata.distributions() if each.name}


def extras_of(requirements: Iterable[str]) -> list[str]:
    return sorted({extra_of(Requirement(line)) for line in requirements} - {""})


def extra_of(required: Requirement) -> str:
    """The extra in a marker such as `sys_platform == "linux" and extra == "gpu"`."""
    _, equals, rest = str(required.marker or "").partition('extra == "')
    return rest.partition('"')[0] if equals else ""


def missing_of(extra: str, requirements: Iterable[str], versions: Mapping[str, str]) -> list[Requirement]:
    """Requirements of `extra` on this system that are not installed; "" stands for the package itself."""
    return [
        required
        for required in map(Requirement, requirements)
        if extra_of(required) == extra
        and (required.marker is None or required.marker.evaluate({"extra": extra}))
        and canonicalize_name(required.name) not in versions
    ]


def pip_install(missing: Iterable[Requirement]) -> str:
    """Names the packages and not the extra: the wheel is on no index, so that pip could not find it by its name."""
    return "pip install " + shlex.join(
        sorted({f"{each.name}{_extras(each)}{each.specifier}" for each in missing})
    )


def cure_for(module: str | None, extra: str | None = None) -> str | None:
    """Cure for a failed `import module`; None where no extra of ours has it, so that it is a bug.

    `extra`: the one whose packages are wanted, where several have this one.
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
