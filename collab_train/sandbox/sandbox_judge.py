"""Judge process: runs the tests, reports which pass, and calls the code's process through `sandbox_link`.

It runs without the package.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import importlib
import io
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from sandbox_link import (  # type: ignore[import-not-found]
    HIDDEN,
    OPERATIONS,
    WORKING_FOLDER,
    CarefulUnpickler,
    Link,
    LinkError,
    Remote,
    has_name,
    is_value,
    random_state,
    set_random_state,
)

ALIASES = {"np": "numpy", "pd": "pandas", "plt": "matplotlib.pyplot", "sns": "seaborn", "sp": "scipy"}
"""Conventional aliases of modules, which tests use with or without importing them."""
LOCKED = (
    "assert",
    "mock_",
    "call",
    "method_calls",
    "return_value",
    "side_effect",
    "reset_mock",
    "attach_mock",
)
"""Prefixes of mock attributes that only the test may set."""

SETTERS = ("configure_mock", "reset_mock", "attach_mock", "mock_add_spec")
"""Methods of a mock that set such attributes; only the test may call them."""


class JudgeEnd(Link):  # type: ignore[misc]
    """The judge's end of the channel. The code reaches only objects that a test passed to it, and no private names."""

    unpickler = CarefulUnpickler

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._sent: dict[str, Any] = {}

    def sends(self, value: Any, strict: bool) -> bool:
        if has_name(value):
            return _is_importable(value)
        if strict or type(value).__module__ == "tests":
            return bool(is_value(type(value).__module__, type(value).__qualname__))
        return not isinstance(
            value, (io.IOBase, types.MethodType, types.GeneratorType, *HIDDEN)
        ) and not _is_mock(value)

    def export(self, value: Any) -> int:
        if isinstance(value, HIDDEN):
            raise TypeError(f"{type(value).__name__} cannot be sent")
        return int(super().export(value))

    def find(self, module: str, name: str) -> Any:
        if not is_value(module, name):
            raise LinkError(f"{module}.{name} cannot be sent")
        member: Any = importlib.import_module(module)
        for part in name.split("."):
            member = getattr(member, part)
        return member

    def show(self, printed: Any) -> None:
        for stream, text in zip((sys.stdout, sys.stderr), printed or (), strict=False):
            if isinstance(text, str) and text:
                stream.write(text)

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result, changed_arguments, returned_key, changed_random_states = self.ask(
            "call", function, args, kwargs, self._ambient()
        )
        arguments: dict[Any, Any] = {**dict(enumerate(args)), **kwargs}
        for key, value in changed_arguments.items():
            _replace(arguments[key], value)
        set_random_state(changed_random_states)
        self._sent |= random_state()
        return arguments[returned_key] if returned_key is not None else result

    def _ambient(self) -> dict[str, Any]:
        """Returns the parts of the ambient state that changed since they were last sent to the code."""
        state: dict[str, Any] = {
            "folder": WORKING_FOLDER[0](),
            "environment": dict(os.environ),
            **random_state(),
        }
        new = {name: value for name, value in state.items() if self._sent.get(name) != value}
        self._sent |= new
        return new

    def perform(self, operation: str, arguments: tuple[Any, ...]) -> Any:
        """Runs a request of the code on an object that a test passed to it.

        Other objects are refused, because methods of tables evaluate texts.
        """
        if not arguments or not self.has_exported(arguments[0]):
            raise LinkError("no test passed that object to the code")
        if operation == "call":
            function, args, kwargs = arguments
            return function(*args, **kwargs)
        if operation in ("get", "set"):
            self._check(operation, *arguments[:2])
        return OPERATIONS[operation](*arguments)

    def _check(self, operation: str, owner: Any, name: str) -> None:
        if not isinstance(name, str) or (name.startswith("_") and name not in ("__name__", "__doc__")):
            raise AttributeError(name)
        if _is_mock(owner) and (name in SETTERS or (operation == "set" and name.startswith(LOCKED))):
            raise AttributeError(f"{name} can only be set by the test")


def _is_importable(value: Any) -> bool:
    member: Any = sys.modules.get(value.__module__ or "")
    if member is None or value.__module__ in ("tests", "__main__"):
        return False
    for part in value.__qualname__.split("."):
        member = getattr(member, part, None)
    return member is value


def _is_mock(value: Any) -> bool:
    mock = sys.modules.get("unittest.mock")
    return mock is not None and isinstance(value, mock.NonCallableMock)


def _replace(old: Any, new: Any) -> None:
    """Updates a mutable argument to its content after the call."""
    if type(old) is not type(new):
        return
    if isinstance(old, dict | set):
        old.clear()
        old.update(new)
    elif isinstance(old, list | bytearray):
        old[:] = new
    elif hasattr(old, "_mgr"):
        object.__setattr__(old, "_mgr", new._mgr)
    elif hasattr(old, "extendleft"):
        old.clear()
        old.extend(new)
    elif getattr(old, "shape", None) == getattr(new, "shape", 0):
        old[...] = new


def run(descriptor: int, tests: str, by_classes: bool, report: Callable[[str], None]) -> None:
    """Runs the tests and reports the name of each one that passes."""
    end = JudgeEnd(descriptor)
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    tree = ast.parse(tests)
    _bind(end, tree, module.__dict__)
    if "mock" in tests:
        _forward_patches(end)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        _forward_clearing(end, pyplot)
    if by_classes:
        exec(compile(tree, "tests.py", "exec"), module.__dict__)
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        run_classes(classes, module.__dict__, report)
    else:
        run_statements(tree.body, module.__dict__, report)


def _bind(end: JudgeEnd, tree: ast.Module, scope: dict[str, Any]) -> None:
    """Binds the names of the code that the tests use. Modules, installed and built-in objects are the judge's own."""
    nodes = list(ast.walk(tree))
    dotted = {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    used = {node.id for node in nodes if isinstance(node, ast.Name)} & set(end.ask("names"))
    for name in sorted(used - set(dir(builtins))):
        kind, value = end.ask("global", name)
        is_module = name in dotted and (name in ALIASES or name in sys.stdlib_module_names)
        if is_module and (kind, value) != ("installed", (name, name)):  # `from datetime import datetime`
            kind, value = "module", (ALIASES.get(name, name), "")
        if kind == "own":
            scope[name] = value
            continue
        module, attribute = value
        if (
            attribute and attribute.rpartition(".")[2] != name
        ):  # an alias: its results must come from the code's process
            scope[name] = end.ask("handle", name)
            continue
        with contextlib.suppress(ImportError, AttributeError):
            imported = importlib.import_module(module)
            scope[name] = getattr(imported, attribute) if attribute else imported


def _forward_patches(end: JudgeEnd) -> None:
    """Forwards `unittest.mock.patch` of modules and classes to the code's process."""
    from unittest import mock

    patch: Any = mock._patch
    enter, leave = patch.__enter__, patch.__exit__

    def entered(self: Any) -> Any:
        result = enter(self)
        owner = self.target
        module = path = ""
        if isinstance(owner, types.ModuleType):
            module = owner.__name__
        elif isinstance(owner, type) and _is_importable(owner):
            module, path = owner.__module__, owner.__qualname__
        self.is_forwarded = module not in ("", "sys") and type(owner) is not Remote
        if self.is_forwarded:
            end.ask("patch", module, path, self.attribute, getattr(owner, self.attribute))
        return result

    def left(self: Any, *details: Any) -> Any:
        if getattr(self, "is_forwarded", False):
            with contextlib.suppress(LinkError):
                end.ask("unpatch")
        return leave(self, *details)

    patch.__enter__, patch.__exit__ = entered, left


def _forward_clearing(end: JudgeEnd, pyplot: Any) -> None:
    """Forwards closing and clearing of the current figures to the code's process."""

    def forwarding(name: str) -> Any:
        clear = getattr(pyplot, name)

        @functools.wraps(clear)
        def both(*args: Any, **kwargs: Any) -> Any:
            # A figure of the test itself does not exist in the code's process.
            if all(type(value) in (Remote, str, int, type(None)) for value in (*args, *kwargs.values())):
                with contextlib.suppress(Exception):
                    end.ask("pyplot", name, args, kwargs)
            return clear(*args, **kwargs)

        return both

    for name in ("close", "clf", "cla"):
        setattr(pyplot, name, forwarding(name))


def run_classes(names: list[str], scope: dict[str, Any], report: Callable[[str], None]) -> None:
    import unittest

    class Passed(unittest.TestResult):
        passed = False

        def addSuccess(self, test: Any) -> None:
            self.passed = True

    compare = unittest.TestCase.assertSetEqual

    def sets(self: Any, first: Any, second: Any, msg: Any = None) -> None:
        if Remote in (type(first), type(second)):  # it would call a method of the code's object
            self.fail(self._formatMessage(msg, "not a set"))
        compare(self, first, second, msg)

    unittest.TestCase.assertSetEqual = sets  # type: ignore[method-assign,assignment]
    for name in names:
        if not issubclass(scope[name], unittest.TestCase):
            continue
        for method in unittest.TestLoader().getTestCaseNames(scope[name]):
            result = Passed()
            with _own_streams():
                unittest.TestSuite([scope[name](method)]).run(result)
            if result.passed and result.wasSuccessful():
                report(f"{name}.{method}")


def run_statements(body: list[ast.stmt], scope: dict[str, Any], report: Callable[[str], None]) -> None:
    for node in body:
        counts = isinstance(node, ast.Assert) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        )
        try:
            with _own_streams():
                exec(compile(ast.Module([node], []), "tests.py", "exec"), scope)
        except BaseException:  # SystemExit as well: exiting early must not pass a test
            continue
        if counts:
            report(f"line {node.lineno}")


@contextlib.contextmanager
def _own_streams() -> Iterator[None]:
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
