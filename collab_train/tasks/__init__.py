"""Tasks by name: a module of this package with a `TASK`. A new one is one small file (docs/tasks.md)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

from collab_train.contexts import Context
from usersim.errors import ConfigError


class Task(Protocol):
    """Where contexts come from and what counts as done. One that reads a file is a frozen dataclass with a
    field `path`."""

    @property
    def rewards(self) -> Mapping[str, float]:
        """Extrinsic rewards by name → weight, used where the config names none."""

    def contexts(self) -> list[Context]:
        """All of them, each with its split; ids are unique."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_task(name: str, path: str | None = None) -> Task:
    """The task `name`, reading `path` where one is given: a file, or `hf:NAME` for a data set of the hub."""
    if name not in names():
        raise ConfigError(f"task: there is no task {name!r}; there are {', '.join(names())}")
    task: Any = importlib.import_module(f"{__name__}.{name}").TASK
    if path is None:
        return task  # type: ignore[no-any-return]
    if not (is_dataclass(task) and "path" in {field.name for field in fields(task)}):
        raise ConfigError(f"task_path: the task {name} reads no file")
    return replace(task, path=path)  # type: ignore[type-var,return-value]
