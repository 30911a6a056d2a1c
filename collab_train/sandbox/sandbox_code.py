"""Process of the code under test: holds the module `solution` and answers the judge's requests.

It contains neither the tests nor their expected results. It runs without the package.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import types
from typing import Any

from sandbox_link import (  # type: ignore[import-not-found]
    OPERATIONS,
    WORKING_FOLDER,
    Link,
    Unpickler,
    has_name,
    is_value,
    random_state,
    set_random_state,
)

MUTABLE = ("list", "dict", "set", "bytearray", "deque", "defaultdict", "OrderedDict", "Counter", "ndarray")
TABLES = ("DataFrame", "Series")


def serve(descriptor: int, code: str, imports: list[str]) -> None:
    """Runs the imports of the tests, on which some solutions depend, then `code`; then answers the judge."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    end = CodeEnd(descriptor, module)
    sys.stdout, sys.stderr = end.out, end.err
    for statement in imports:
        with contextlib.suppress(Exception):
            exec(statement, module.__dict__)
    end.load(code)
    end.serve()


class CodeEnd(Link):  # type: ignore[misc]
    unpickler = Unpickler

    def __init__(self, descriptor: int, module: types.ModuleType) -> None:
        super().__init__(descriptor)
        self.module = module
        self.failure: BaseException | None = None
        self.out, self.err = io.StringIO(), io.StringIO()
        self._patched: list[tuple[Any, str, bool, Any]] = []

    def load(self, code: str) -> None:
        try:
            exec(compile(code, "solution.py", "exec"), self.module.__dict__)
        except BaseException as error:
            self.failure = error
        self.printed()

    def sends(self, value: Any, strict: bool) -> bool:
        kind = value if has_name(value) else type(value)
        return bool(is_value(kind.__module__ or "", kind.__qualname__))

    def find(self, module: str, name: str) -> Any:
        member: Any = importlib.import_module(module)
        for part in name.split("."):
            member = getattr(member, part)
        return member

    def printed(self) -> tuple[str, str]:
        texts = self.out.getvalue(), self.err.getvalue()
        for stream in (self.out, self.err):
            stream.seek(0)
            stream.truncate()
        return texts

    def perform(self, operation: str, arguments: tuple[Any, ...]) -> Any:
        if operation == "names":
            if self.failure is not None:
                raise self.failure
            return [name for name in self.module.__dict__ if not name.startswith("__")]
        if operation == "global":
            return _described(self.module.__dict__[arguments[0]])
        if operation == "handle":
            return self.module.__dict__[arguments[0]]
        if operation == "call":
            return self._call(*arguments)
        if operation == "patch":
            return self._patch(*arguments)
        if operation == "unpatch":
            return self._unpatch()
        if operation == "pyplot":
            return self._pyplot(*arguments)
        return OPERATIONS[operation](*arguments)

    def _call(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], ambient: dict[str, Any]
    ) -> Any:
        """Returns the result, mutated arguments, key of the argument that is the result, changed random states."""
        self._adopt(ambient)
        random_before = random_state()
        arguments: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        mutable = {
            key: value for key, value in arguments.items() if type(value).__name__ in (*MUTABLE, *TABLES)
        }
        packed_before = self._packed(mutable, strict=True) if mutable else b""
        result = function(*args, **kwargs)
        changed_arguments = mutable if mutable and self._packed(mutable, strict=True) != packed_before else {}
        returned_key = next((key for key, value in mutable.items() if value is result), None)
        changed_random_states = {
            name: state for name, state in random_state().items() if state != random_before.get(name)
        }
        return (
            (None if returned_key is not None else result),
            changed_arguments,
            returned_key,
            changed_random_states,
        )

    def _adopt(self, ambient: dict[str, Any]) -> None:
        """Copies the judge's working folder, environment and random states into this process."""
        if "folder" in ambient:
            WORKING_FOLDER[1](ambient["folder"])
        if "environment" in ambient:
            os.environ.clear()
            os.environ.update(ambient["environment"])
        set_random_state(ambient)

    def _patch(self, module: str, path: str, attribute: str, new: Any) -> None:
        owner: Any = importlib.import_module(module)
        for part in path.split(".") if path else ():
            owner = getattr(owner, part)
        is_own = attribute in vars(owner)
        self._patched.append((owner, attribute, is_own, getattr(owner, attribute, None)))
        setattr(owner, attribute, new)

    def _unpatch(self) -> None:
        owner, attribute, is_own, value = self._patched.pop()
        if is_own:
            setattr(owner, attribute, value)
        else:
            delattr(owner, attribute)

    def _pyplot(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        getattr(sys.modules["matplotlib.pyplot"], name)(*args, **kwargs)


def _described(value: Any) -> tuple[str, Any]:
    """Describes a global for the judge, which takes modules and installed objects from its own packages."""
    if isinstance(value, types.ModuleType):
        return "module", (value.__name__, "")
    if has_name(value):
        module, name = str(value.__module__), str(value.__qualname__)
        if module != "solution" and getattr(sys.modules.get(module), name, None) is value:
            return "installed", (module, name)
    return "own", value
