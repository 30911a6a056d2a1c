"""Configs: a frozen model beside the code it configures holds the defaults, a TOML file holds departures."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from usersim.errors import ConfigError
from usersim.records import explain
from usersim.types import Record


class Config(Record):
    """Base of every config: frozen, unknown keys are errors."""


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """`kind` from its defaults, then the TOML at `path`, then `a.b=value` overrides (values are TOML).

    Raises ConfigError naming the file and the key.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(Path(path))
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path or 'config'}: {explain(error)}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError naming the file."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML ({error})") from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r}: write key=value, e.g. optim.lr=1e-4")
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is not a table")
    values[leaf] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string, as on any command line
