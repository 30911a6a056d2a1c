"""Channel between the process that runs the tests (the judge) and the one that runs the code.

Each side sends requests (call a function, read an attribute) and answers those of the other. Numbers, texts,
containers, dates, arrays and tables are sent by value. Other objects stay in their process and are sent as handles
(`Remote`). The judge trusts no message: its unpickler rebuilds only listed types. A handle is equal only to itself. The
code reaches only those objects of the judge that a test passed to it.

It runs without the package.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import operator
import os
import pickle
import struct
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, ClassVar

LONGEST = 256 * 1024 * 1024
"""Maximum bytes of one message."""
PurePython: Any = pickle._Unpickler
"""Unpickler in Python, whose steps can be overridden, unlike those of `pickle.Unpickler`."""
TRANSPORT = os.read, os.write
"""Functions of `os`, saved before a test can patch them."""
WORKING_FOLDER = os.getcwd, os.chdir
"""Functions of `os`, saved likewise."""
VALUES: dict[str, frozenset[str]] = {
    "builtins": frozenset(
        {"complex", "bytearray", "range", "slice", "set", "frozenset", "list", "dict", "tuple", "str", "int"}
        | {"float", "bool", "bytes", "object", "Ellipsis", "NotImplemented", "NoneType"}
    ),
    "collections": frozenset({"OrderedDict", "Counter", "defaultdict", "deque"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "_decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID", "SafeUUID"}),
    "pathlib": frozenset({"PosixPath", "PurePosixPath", "Path", "PurePath"}),
    "pathlib._local": frozenset({"PosixPath", "PurePosixPath", "Path", "PurePath"}),
    "array": frozenset({"array", "_array_reconstructor"}),
    "zoneinfo": frozenset({"ZoneInfo", "ZoneInfo._unpickle"}),
    "numpy": frozenset({"ndarray", "dtype"}),
    "numpy.core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy._core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy.core.numeric": frozenset({"_frombuffer"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
    "pandas._libs.internals": frozenset({"_unpickle_block"}),
    "pandas": frozenset({"Timestamp", "Timedelta", "Period", "Interval", "NA"}),  # their names in pandas 3
    "pandas.api.typing": frozenset({"NaTType", "NAType"}),
    "pandas.core.indexes.interval": frozenset({"_new_IntervalIndex"}),
    "pandas._libs.tslibs.period": frozenset({"Period", "_unpickle_period"}),
    "pandas._libs.arrays": frozenset({"__pyx_unpickle_NDArrayBacked"}),
    "pandas._libs.tslibs.nattype": frozenset({"_nat_unpickle", "NaTType"}),
    "pandas._libs.tslibs.timestamps": frozenset({"_unpickle_timestamp", "Timestamp"}),
    "pandas._libs.tslibs.timedeltas": frozenset({"_timedelta_unpickle", "Timedelta"}),
    "pandas._libs.interval": frozenset({"Interval"}),
    "pandas._libs.missing": frozenset({"NAType"}),
    "pandas.core.indexes.base": frozenset({"_new_Index"}),
    "pandas.core.indexes.datetimes": frozenset({"_new_DatetimeIndex"}),
    "pandas.core.indexes.period": frozenset({"_new_PeriodIndex"}),
}
"""Names that the judge's unpickler may use, by module: types and the functions that rebuild them."""
HIDDEN = types.FrameType, types.CodeType, types.TracebackType, types.ModuleType
"""Types that give access to the rest of a process. The judge never sends them."""


class LinkError(Exception):
    """Error for a closed channel or a forbidden message."""


def is_value(module: str, name: str) -> bool:
    """True if the judge may rebuild the class or function `module.name`."""
    if name in VALUES.get(module, ()):
        return True
    root = module.partition(".")[0]
    if root not in ("numpy", "pandas") or "." in name or root not in sys.modules:
        return False
    return _is_data_type(getattr(sys.modules.get(module), name, None))


def has_name(value: Any) -> bool:
    """True if `value` is a class or a function, including Cython functions."""
    return isinstance(value, type) or type(value).__name__ in FUNCTIONS


FUNCTIONS = (
    "function",
    "builtin_function_or_method",
    "cython_function_or_method",
    "_ArrayFunctionDispatcher",
    "ufunc",
)


def _is_data_type(kind: Any) -> bool:
    """True for scalar and dtype classes of numpy, and for data classes of pandas."""
    if not isinstance(kind, type):
        return False
    bases: list[Any] = []
    if numpy := sys.modules.get("numpy"):
        bases += [numpy.generic, numpy.dtype]
    if pandas := sys.modules.get("pandas"):
        managers: Any = sys.modules.get("pandas.core.internals.managers")
        bases += [pandas.DataFrame, pandas.Series, pandas.Index, pandas.offsets.BaseOffset]
        bases += [pandas.api.extensions.ExtensionArray, pandas.api.extensions.ExtensionDtype]
        bases += [managers.BaseBlockManager, pandas.Flags, sys.modules["pandas._libs.internals"].Block]
    return issubclass(kind, tuple(bases))


def _theirs(number: int, module: str, name: str) -> None:
    """Placeholder in a message for an object of the sender."""


def _mine(number: int) -> None:
    """Placeholder in a message for an object of the receiver."""


def _strings(values: Any, dtype: Any) -> Any:
    """Rebuilds a column of strings from objects, because a message could forge buffers of Arrow."""
    pandas: Any = sys.modules["pandas"]
    return pandas.array(values, dtype=dtype)


class Remote:
    """Handle to an object of the other process. It claims that object's class and forwards operations to it."""

    __slots__ = ("_remote_class", "_remote_link", "_remote_number")

    def __init__(self, link: Link, number: int, claim: tuple[str, str]) -> None:
        object.__setattr__(self, "_remote_link", link)
        object.__setattr__(self, "_remote_number", number)
        object.__setattr__(self, "_remote_class", claim)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return known_class(*self._remote_class) or Remote

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)  # numpy would take memory addresses from `__array_interface__`
        return self._remote_link.ask("get", self, name)

    @property
    def __signature__(self) -> inspect.Signature:
        """Signature for `inspect`, and for libraries that count the parameters of a function."""
        try:
            described = self._remote_link.ask("signature", self)
            kinds = inspect._ParameterKind
            return inspect.Signature(
                [
                    inspect.Parameter(
                        name, kinds(kind), default=default[0] if default else inspect.Parameter.empty
                    )
                    for name, kind, default in described
                ]
            )
        except Exception as error:
            raise AttributeError("__signature__") from error

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote_link.ask("set", self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._remote_link.call(self, args, kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._remote_link.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._remote_link.ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._remote_link.ask("delitem", self, key)

    def __len__(self) -> int:
        return int(self._remote_link.ask("len", self))

    def __bool__(self) -> bool:
        return bool(self._remote_link.ask("bool", self))

    def __iter__(self) -> Any:
        iterator = self._remote_link.ask("iter", self)
        while True:
            try:
                item = self._remote_link.ask("next", iterator)
            except StopIteration:
                return
            yield item

    def __next__(self) -> Any:
        return self._remote_link.ask("next", self)

    def __contains__(self, item: Any) -> bool:
        return any(item is own or item == own for own in self)  # compared on this side

    def __enter__(self) -> Any:
        return self._remote_link.ask("enter", self)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
        return self._remote_link.ask("exit", self)

    def __str__(self) -> str:
        return str(self._remote_link.ask("str", self))

    def __repr__(self) -> str:
        return str(self._remote_link.ask("repr", self))

    def __float__(self) -> float:
        return float(self._remote_link.ask("float", self))

    def __int__(self) -> int:
        return int(self._remote_link.ask("int", self))


def _signature(function: Any) -> list[tuple[str, int, list[Any]]]:
    """Returns (name, kind, [default] or []) of each parameter; a default that is not a plain value becomes `...`."""
    return [
        (part.name, int(part.kind), [] if part.default is part.empty else [_plain(part.default)])
        for part in inspect.signature(function).parameters.values()
    ]


def _plain(value: Any) -> Any:
    return value if type(value) in (bool, int, float, complex, str, bytes, type(None)) else ...


OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "item": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "len": len,
    "bool": bool,
    "iter": iter,
    "next": next,
    "str": str,
    "repr": repr,
    "float": float,
    "int": int,
    "enter": lambda opened: opened.__enter__(),
    "signature": _signature,
    "exit": lambda opened: opened.__exit__(None, None, None),
}


def known_class(module: str, name: str) -> type | None:
    """Returns the installed class of that name, or None for a class of the code."""
    if module.partition(".")[0] in ("solution", "tests", "unittest", "__main__") or "sandbox_" in module:
        return None
    if (module, name) == ("builtins", "generator"):
        return types.GeneratorType
    try:
        if module.partition(".")[0] in sys.stdlib_module_names:
            importlib.import_module(module)
        member: Any = sys.modules[module]
        for part in name.split("."):
            member = vars(member)[part]
    except Exception:  # an invented name, or a module never imported here
        return None
    is_that_class = isinstance(member, type) and (member.__module__, member.__qualname__) == (module, name)
    return member if is_that_class else None


def random_state() -> dict[str, bytes]:
    """Returns the pickled states of the generators of `random` and numpy."""
    states: dict[str, bytes] = {}
    if "random" in sys.modules:
        states["random"] = pickle.dumps(sys.modules["random"].getstate())
    if "numpy" in sys.modules:
        kind, keys, *rest = sys.modules["numpy"].random.get_state()
        states["numpy"] = pickle.dumps((kind, keys.tolist(), *rest))
    return states


def set_random_state(states: dict[str, Any]) -> None:
    """Sets the states of the generators.

    Raises:
        LinkError: a state contains anything but numbers, texts and tuples.
    """
    for name in ("random", "numpy"):
        if name in states:
            state = _Plain(io.BytesIO(states[name])).load()
            if name == "random":
                importlib.import_module("random").setstate(state)
            else:
                importlib.import_module("numpy").random.set_state(state)


class _Plain(pickle.Unpickler):
    """Unpickler of numbers, texts and tuples only."""

    def find_class(self, module: str, name: str) -> Any:
        raise LinkError(f"{module}.{name} cannot be sent")


class Link:
    """One end of the channel. Subclasses decide what is sent by value and which requests are allowed."""

    unpickler: Any

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.RLock()
        self._exported: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}

    # Methods for subclasses.

    def sends(self, value: Any, strict: bool) -> bool:
        """True if `value` is sent by value."""
        raise NotImplementedError

    def find(self, module: str, name: str) -> Any:
        """Returns the class or function of that name for the unpickler."""
        raise NotImplementedError

    def perform(self, operation: str, arguments: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.ask("call", function, args, kwargs)

    def printed(self) -> Any:
        """Returns (standard output, standard error) since the last answer, sent with each answer."""
        return None

    def show(self, printed: Any) -> None:
        pass

    # Requests and answers.

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Sends a request and returns its answer, or raises its error; meanwhile answers requests of the other side."""
        with self._lock:
            self._send(("ask", operation, arguments))
            while True:
                kind, *rest = self._receive()
                if kind == "ask":
                    self._answer(*rest)
                elif kind == "value":
                    self.show(rest[1])
                    return rest[0]
                elif kind == "error":
                    self.show(rest[1])
                    raise self._rebuilt(*rest[0])
                else:
                    raise LinkError("message of an unknown kind from the other process")

    def serve(self) -> None:
        """Answers requests until the channel closes."""
        while True:
            try:
                kind, *rest = self._receive()
            except (LinkError, EOFError):
                return
            if kind == "ask":
                self._answer(*rest)

    def _answer(self, operation: str, arguments: tuple[Any, ...]) -> None:
        try:
            message = ("value", self.perform(operation, arguments), self.printed())
        except BaseException as error:
            kind = type(error)
            described = (kind.__module__, kind.__qualname__, error.args, str(error))
            message = ("error", described, self.printed())
        try:
            self._send(message)
        except LinkError:
            raise
        except Exception as error:  # the result cannot be sent, not even as a handle
            self._send(("error", ("builtins", "TypeError", (str(error),), str(error)), None))

    def _rebuilt(self, module: str, name: str, args: Any, text: str) -> BaseException:
        kind = known_class(module, name)
        if kind is not None and issubclass(kind, Exception | SystemExit):
            try:
                return kind(*args)
            except Exception:  # its constructor takes other arguments
                with contextlib.suppress(Exception):
                    error: BaseException = kind.__new__(kind)
                    error.args = tuple(args)
                    return error
        return RuntimeError(f"{name}: {text}")

    # Messages.

    def _send(self, message: Any) -> None:
        try:
            content = self._packed(message, strict=False)
        except Exception:  # part of it cannot be pickled
            content = self._packed(message, strict=True)
        rest = memoryview(struct.pack("<Q", len(content)) + content)
        while rest:
            try:
                rest = rest[TRANSPORT[1](self.descriptor, rest) :]
            except OSError as error:
                raise LinkError("the other process is gone") from error

    def _receive(self) -> Any:
        (size,) = struct.unpack("<Q", self._read(8))
        if size > LONGEST:
            raise LinkError(f"message longer than {LONGEST} bytes")
        return self.unpickler(self, io.BytesIO(self._read(size))).load()

    def _read(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            piece = TRANSPORT[0](self.descriptor, min(size - len(content), 1 << 20))
            if not piece:
                raise LinkError("the other process is gone")
            content += piece
        return bytes(content)

    def _packed(self, message: Any, *, strict: bool) -> bytes:
        stream = io.BytesIO()
        _Pickler(self, stream, strict).dump(message)
        return stream.getvalue()

    def export(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._exported)
            self._exported[number] = value  # kept alive, so that its id is not reused
        return number

    def has_exported(self, value: Any) -> bool:
        return id(value) in self._numbers

    def exported(self, number: int) -> Any:
        return self._exported[number]

    def remote(self, number: int, module: str, name: str) -> Remote:
        return Remote(self, int(number), (str(module), str(name)))


class _Pickler(pickle.Pickler):
    def __init__(self, link: Link, stream: io.BytesIO, strict: bool) -> None:
        super().__init__(stream, protocol=5)
        self.link, self.strict = link, strict

    def reducer_override(self, value: Any) -> Any:
        if value is _theirs or value is _mine or value is _strings:
            return NotImplemented
        kind = type(value)
        if kind.__name__ == "ArrowStringArray":
            return _strings, (value.to_numpy(object), value.dtype)
        if (kind.__module__, kind.__qualname__) == ("zoneinfo", "ZoneInfo") and value.key:
            return kind, (value.key,)  # its own reducer is a function without a module
        if kind is Remote:
            return _mine, (value._remote_number,)
        if self.link.sends(value, self.strict):
            return NotImplemented
        return _theirs, (self.link.export(value), kind.__module__, kind.__qualname__)


class _LinkLookup:
    """Mixin that looks up classes for an unpickler through its link."""

    link: Link

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__:
            local_functions = {"_theirs": self.link.remote, "_mine": self.link.exported, "_strings": _strings}
            return local_functions[name]
        return self.link.find(module, name)


class Unpickler(_LinkLookup, pickle.Unpickler):
    """Unpickler of the code's process, which trusts the judge."""

    def __init__(self, link: Link, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.link = link


class CarefulUnpickler(_LinkLookup, PurePython):  # type: ignore[misc]
    """Unpickler of the judge. An object's state may hold only data, so the code cannot replace its methods."""

    dispatch: ClassVar = dict(PurePython.dispatch)

    def __init__(self, link: Link, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.link = link

    def load_build(self) -> None:
        state, owner = self.stack[-1], self.stack[-2]
        types_of_pandas: Any = sys.modules.get("pandas.core.dtypes.dtypes")
        if types_of_pandas is not None and isinstance(owner, types_of_pandas.BaseMaskedDtype):
            self.stack.pop()  # a cache
            return
        if not hasattr(type(owner), "__setstate__") and not _holds_data(owner, state):
            raise LinkError(f"{type(owner).__name__} may not be given a state")
        if hasattr(owner, "_metadata") and isinstance(state, dict):  # a table or a column
            state = {key: value for key, value in state.items() if key in TABLE_STATE}
            self.stack[-1] = state
        parts = [*state] if isinstance(state, tuple | list) else [state]
        values = [value for part in parts for value in (part.values() if isinstance(part, dict) else [part])]
        if any(callable(value) for value in values):
            raise LinkError(f"the state of {type(owner).__name__} holds a callable")
        super().load_build()
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None and isinstance(owner, numpy.dtype) and not _is_sound(owner):
            raise LinkError("invalid dtype")

    def load_reduce(self) -> None:
        if type(self.stack[-2]) is Remote:
            raise LinkError("a message calls an object of its sender")
        _refuse_ndarray(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        _refuse_ndarray(self.stack[-2])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        _refuse_ndarray(self.stack[-3])
        super().load_newobj_ex()

    def _instantiate(self, klass: Any, args: Any) -> None:
        raise LinkError("opcode of an old pickle protocol")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex


def _holds_data(owner: Any, state: Any) -> bool:
    """True if `owner` is a masked array of pandas and `state` its parts."""
    pandas: Any = sys.modules.get("pandas")
    is_array = pandas is not None and isinstance(owner, pandas.api.extensions.ExtensionArray)
    return is_array and isinstance(state, dict) and state.keys() <= {"_data", "_mask", "_dtype", "_cache"}


def _refuse_ndarray(function: Any) -> None:
    """Refuses direct calls of `ndarray`, which would read any bytes as addresses of objects.

    Pickles by numpy itself use `_reconstruct` or `_frombuffer`.
    """
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(function, type) and issubclass(function, numpy.ndarray):
        raise LinkError("a message calls ndarray directly")


def _is_sound(dtype: Any) -> bool:
    """True if flags and offsets of an unpickled dtype are those that numpy itself gives it."""
    import numpy

    if dtype.subdtype is not None:
        return _is_sound(dtype.subdtype[0]) and dtype.hasobject == dtype.subdtype[0].hasobject
    if dtype.names is None:
        return bool(dtype.hasobject == (dtype.kind == "O"))
    fields = [dtype.fields[name] for name in dtype.names]
    rebuilt = numpy.dtype(
        {
            "names": list(dtype.names),
            "formats": [field[0] for field in fields],
            "offsets": [field[1] for field in fields],
            "itemsize": dtype.itemsize,
        }
    )
    return all(_is_sound(field[0]) for field in fields) and bool(dtype.hasobject == rebuilt.hasobject)


TABLE_STATE = ("_mgr", "_typ", "_flags", "attrs", "_name", "name")
