"""Tasks by name: a module of this package with a `TASK`. A new one is one small file (see `hidden_facets.py`)."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Protocol

from collab_train.contexts import Context
from usersim.errors import ConfigError


class Task(Protocol):
    """Where contexts come from and what counts as done."""

    @property
    def rewards(self) -> Mapping[str, float]:
        """Extrinsic rewards by name → weight, used where the config names none."""

    def contexts(self) -> list[Context]:
        """All of them, each with its split; ids are unique."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_task(name: str) -> Task:
    if name not in names():
        raise ConfigError(f"task: there is no task {name!r}; there are {', '.join(names())}")
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task
