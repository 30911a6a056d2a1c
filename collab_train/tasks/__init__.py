"""Registry of tasks: each module of this package with a `TASK` is one. docs/tasks.md tells how to add one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol

from collab_train.contexts import Context
from usersim.errors import ConfigError


class Task(Protocol):
    """Protocol of a task: a source of contexts with the rewards for them.

    A task that reads a file is a frozen dataclass with a field `path`.
    """

    @property
    def rewards(self) -> Mapping[str, float]:
        """Default weights of the extrinsic rewards, by name."""

    def contexts(self) -> list[Context]:
        """Returns all contexts, each with its split and a unique id."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_task(name: str, path: str | None = None) -> Task:
    """Returns the task `name`.

    Args:
        name: module name of the task.
        path: file to read, or `hf:NAME` for a Hugging Face data set.

    Raises:
        ConfigError: there is no such task, or it reads no file.
    """
    if name not in names():
        raise ConfigError(f"task: unknown task {name!r}; choose one of {', '.join(names())}")
    task: Any = importlib.import_module(f"{__name__}.{name}").TASK
    if path is None:
        return task  # type: ignore[no-any-return]
    if not (is_dataclass(task) and "path" in {field.name for field in fields(task)}):
        raise ConfigError(f"task_path: the task {name} reads no file")
    return replace(task, path=path)  # type: ignore[type-var,return-value]
