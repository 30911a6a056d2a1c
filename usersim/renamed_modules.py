"""Import hook for documented module paths of the previous release: imports the new path, and warns.

The old paths go away with the next release.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

RENAMED = {
    "data_prep.annotated": "data_prep.pipeline.annotated",
    "data_prep.chats": "data_prep.raw_chats",
    "data_prep.goal_report": "data_prep.goals.evaluation",
    "data_prep.goal_training": "data_prep.goals.training",
    "eval.estimates": "usersim.stats.estimates",
    "eval.features": "eval.fidelity.samples.features",
    "eval.metrics": "eval.fidelity.metrics",
    "eval.metrics.base": "eval.fidelity.metrics.metric_protocol",
    "eval.model": "eval.likelihood",
    "eval.model.markdown": "eval.likelihood.markdown",
    "eval.next_turn.draw": "eval.next_turn.simulators.draw",
    "serve.cpu_engine": "serve.engine.vllm_cpu_plugin",
    "serve.keys": "serve.http.keys",
    "serve.service": "serve.api.service",
    "serve.strict": "serve.http.strict_json",
    "usersim.sampling": "usersim.users.protocols",
    "usersim.style": "usersim.text.style",
}
"""New path by old path. `serve.cpu_engine` is the vLLM plugin's path in older environments."""

ALIAS = """
import importlib, runpy, sys, warnings
warnings.warn("{old} is now {new}; the old path goes away with the next release", DeprecationWarning, stacklevel=2)
if __name__ == "__main__":
    runpy.run_module("{new}", run_name="__main__", alter_sys=True)
else:
    sys.modules[__name__] = importlib.import_module("{new}")
"""


def new_path(old: str) -> str | None:
    """Returns the new path of a module, or of a module in a renamed package; None: not renamed."""
    package, _, stem = old.rpartition(".")
    return RENAMED.get(old) or (f"{RENAMED[package]}.{stem}" if package in RENAMED else None)


class RenamedModules(MetaPathFinder, InspectLoader):
    """Finder and loader of the paths in `RENAMED`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if new_path(fullname) else None

    def get_source(self, fullname: str) -> str:
        return ALIAS.format(old=fullname, new=new_path(fullname))


def install() -> None:
    """Puts the hook before all other finders, once."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, RenamedModules())
