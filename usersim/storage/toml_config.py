"""Configs: frozen models with defaults, overridden by a TOML file and `key=value` arguments."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from pydantic import ValidationError, model_validator
from pydantic.fields import FieldInfo

from usersim.errors import ConfigError
from usersim.storage.records import explain
from usersim.types import Record


class Config(Record):
    """Base of every config: frozen, unknown keys are errors, one value stands for a list of one."""

    @model_validator(mode="before")
    @classmethod
    def _lists_of_one(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: (value,)
            if isinstance(value, (str, int, float)) and _is_list(cls.model_fields.get(key))
            else value
            for key, value in values.items()
        }


def _is_list(field: FieldInfo | None) -> bool:
    """Returns True if the field is a tuple of any length."""
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return any(get_origin(kind) is tuple and get_args(kind)[-1:] == (...,) for kind in kinds)


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Builds a config from its defaults, the TOML at `path` and `a.b=value` overrides, in this order.

    Values of overrides are TOML; a bare word is a string. Raises ConfigError naming the file or override and the key.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = read_toml(Path(path))
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_complaint(kind, path, overrides, error)) from error


def _complaint(
    kind: type[Config], path: str | Path | None, overrides: Sequence[str], error: ValidationError
) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    # The last override wins, as in `_apply`; an override of a table sets all its keys.
    matching = (
        text for text in reversed(overrides) if f"{key}.".startswith(f"{text.partition('=')[0].strip()}.")
    )
    override = next(matching, None)
    where = f"override {override!r}" if override is not None else str(path or "config")
    if first["type"] != "extra_forbidden":
        return f"{where}: {explain(error)}"
    keys = [name for name, _, _ in config_keys(kind)]
    near = difflib.get_close_matches(key, keys, n=1) or [
        name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]
    ]
    advice = f"did you mean {near[0]!r}?" if near else f"its keys are {', '.join(keys)}"
    return f"{where}: unknown key {key!r}; {advice}"


def config_keys(kind: type[Config], parents: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields (dotted key, default as text, description) of every key."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Record):
            yield from config_keys(cast("type[Config]", field.annotation), f"{parents}{name}.")
            continue
        default = "(required)" if field.is_required() else field.get_default(call_default_factory=True)
        text = default if isinstance(default, str) else _written(default)
        meaning = next(iter((field.description or "").strip().split("\n")), "")
        yield f"{parents}{name}", text, meaning or _choices(field.annotation)


def _written(value: Any) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_written, value)) or "(empty)"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _choices(annotation: Any) -> str:
    """Returns the values of a `Literal`, optional or not, separated by `|`."""
    kinds = (annotation, *get_args(annotation))
    return " | ".join(str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind))


def keys_help(kind: type[Config]) -> str:
    """Returns the help text for the keys of a config, one per line."""
    rows = [(f"{key}={default}", meaning) for key, default, meaning in config_keys(kind)]
    width = min(36, max(len(setting) for setting, _ in rows))
    lines = [f"  {setting:{width}}  {meaning}".rstrip() for setting, meaning in rows]
    return "\n".join(["keys, with their defaults (a.b is key b of table a):", *lines])


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file. Raises ConfigError naming the file."""
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
