"""Narrow channel between the process that runs the tests (the judge) and the one that runs the code.

Each side sends requests (call this, read that attribute) and answers those of the other. Numbers, texts, containers,
dates, arrays and tables cross by value. Everything else stays where it is and crosses as a handle (`Remote`). The judge
trusts nothing that it reads: its unpickler rebuilds listed types only. A handle is equal only to itself, and reaches
nothing of the judge but what a test handed over.

Runs on its own, without the package.
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
"""Bytes of one message."""
PurePython: Any = pickle._Unpickler
"""Its steps can be overridden, those of `pickle.Unpickler` cannot."""
TRANSPORT = os.read, os.write
"""Taken before a test can patch them."""
WORKING_FOLDER = os.getcwd, os.chdir
"""Likewise."""
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
    "pandas": frozenset({"Timestamp", "Timedelta", "Period", "Interval", "NA"}),  # as pandas 3 calls them
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
"""What the judge rebuilds, by module: types and the functions by which they unpickle."""
HIDDEN = types.FrameType, types.CodeType, types.TracebackType, types.ModuleType
"""Through these a process can be walked: the judge hands out none."""


class LinkError(Exception):
    """The other side is gone or says what it must not."""


def is_value(module: str, name: str) -> bool:
    """Whether the class or function `module.name` may be rebuilt on the judge's side."""
    if name in VALUES.get(module, ()):
        return True
    root = module.partition(".")[0]
    if root not in ("numpy", "pandas") or "." in name or root not in sys.modules:
        return False
    return _is_data_type(getattr(sys.modules.get(module), name, None))


def has_name(value: Any) -> bool:
    """Whether `value` is a class or a function, Cython's too."""
    return isinstance(value, type) or type(value).__name__ in FUNCTIONS


FUNCTIONS = (
    "function",
    "builtin_function_or_method",
    "cython_function_or_method",
    "_ArrayFunctionDispatcher",
    "ufunc",
)


def _is_data_type(known: Any) -> bool:
    """Scalars and dtypes of numpy; tables, columns, indices, their arrays and dtypes of pandas."""
    if not isinstance(known, type):
        return False
    bases: list[Any] = []
    if numpy := sys.modules.get("numpy"):
        bases += [numpy.generic, numpy.dtype]
    if pandas := sys.modules.get("pandas"):
        managers: Any = sys.modules.get("pandas.core.internals.managers")
        bases += [pandas.DataFrame, pandas.Series, pandas.Index, pandas.offsets.BaseOffset]
        bases += [pandas.api.extensions.ExtensionArray, pandas.api.extensions.ExtensionDtype]
        bases += [managers.BaseBlockManager, pandas.Flags, sys.modules["pandas._libs.internals"].Block]
    return issubclass(known, tuple(bases))


def _theirs(number: int, module: str, name: str) -> None:
    """Stands in a message for an object of the sender."""


def _mine(number: int) -> None:
    """Stands in a message for an object of the receiver."""


def _strings(values: Any, dtype: Any) -> Any:
    """Column of texts, which would be kept in buffers of Arrow that a message could forge."""
    pandas: Any = sys.modules["pandas"]
    return pandas.array(values, dtype=dtype)


class Remote:
    """Object of the other process. Claims that object's class, forwards what is asked of it, and is equal to itself."""

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
        """For `inspect`, and for libraries that count the parameters of a function."""
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
    """(name, kind, [default] if there is one) of each parameter. A default that is no plain value shows as `...`."""
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
    """The installed class of that name; None for one that the code defines."""
    if module.partition(".")[0] in ("solution", "tests", "unittest", "__main__") or "sandbox_" in module:
        return None
    if (module, name) == ("builtins", "generator"):
        return types.GeneratorType
    try:
        if module.partition(".")[0] in sys.stdlib_module_names:
            importlib.import_module(module)
        found: Any = sys.modules[module]
        for part in name.split("."):
            found = vars(found)[part]
    except Exception:  # a name that the other side made up, or of what was never imported here
        return None
    is_own = isinstance(found, type) and (found.__module__, found.__qualname__) == (module, name)
    return found if is_own else None


def random_state() -> dict[str, bytes]:
    """State of the generators of `random` and numpy, packed."""
    states: dict[str, bytes] = {}
    if "random" in sys.modules:
        states["random"] = pickle.dumps(sys.modules["random"].getstate())
    if "numpy" in sys.modules:
        kind, keys, *rest = sys.modules["numpy"].random.get_state()
        states["numpy"] = pickle.dumps((kind, keys.tolist(), *rest))
    return states


def set_random_state(states: dict[str, Any]) -> None:
    """Raises LinkError for a state that is none."""
    for name in ("random", "numpy"):
        if name in states:
            state = _Plain(io.BytesIO(states[name])).load()
            if name == "random":
                importlib.import_module("random").setstate(state)
            else:
                importlib.import_module("numpy").random.set_state(state)


class _Plain(pickle.Unpickler):
    """Numbers, texts and tuples of them."""

    def find_class(self, module: str, name: str) -> Any:
        raise LinkError(f"{module}.{name} does not cross")


class Link:
    """One end of the channel. Subclasses say what they send by value and what they do for the other side."""

    unpickler: Any

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._lock = threading.RLock()
        self._exported: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}

    # What a subclass decides.

    def sends(self, value: Any, strict: bool) -> bool:
        """Whether `value` goes by value."""
        raise NotImplementedError

    def find(self, module: str, name: str) -> Any:
        """The class or function of that name, for a message that holds it."""
        raise NotImplementedError

    def perform(self, operation: str, arguments: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.ask("call", function, args, kwargs)

    def printed(self) -> Any:
        """What goes with every answer: (standard output, standard error) since the last one."""
        return None

    def show(self, printed: Any) -> None:
        pass

    # Requests and answers.

    def ask(self, operation: str, *arguments: Any) -> Any:
        """The other side's answer; its requests are answered meanwhile. Raises what was raised there."""
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
                    raise LinkError("the other side broke the protocol")

    def serve(self) -> None:
        """Answers requests until the other side is gone."""
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
        except Exception as error:  # it cannot be sent, not even as a handle
            self._send(("error", ("builtins", "TypeError", (str(error),), str(error)), None))

    def _rebuilt(self, module: str, name: str, args: Any, text: str) -> BaseException:
        kind = known_class(module, name)
        if kind is not None and issubclass(kind, Exception | SystemExit):
            try:
                return kind(*args)
            except Exception:  # one that wants other arguments
                with contextlib.suppress(Exception):
                    made: BaseException = kind.__new__(kind)
                    made.args = tuple(args)
                    return made
        return RuntimeError(f"{name}: {text}")

    # Messages.

    def _send(self, message: Any) -> None:
        try:
            content = self._packed(message, strict=False)
        except Exception:  # something in it cannot be copied after all
            content = self._packed(message, strict=True)
        rest = memoryview(struct.pack("<Q", len(content)) + content)
        while rest:
            try:
                rest = rest[TRANSPORT[1](self.descriptor, rest) :]
            except OSError as error:
                raise LinkError("the other side is gone") from error

    def _receive(self) -> Any:
        (size,) = struct.unpack("<Q", self._read(8))
        if size > LONGEST:
            raise LinkError("too long a message")
        return self.unpickler(self, io.BytesIO(self._read(size))).load()

    def _read(self, size: int) -> bytes:
        content = bytearray()
        while len(content) < size:
            piece = TRANSPORT[0](self.descriptor, min(size - len(content), 1 << 20))
            if not piece:
                raise LinkError("the other side is gone")
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
            self._exported[number] = value  # kept alive, so that its id stays its own
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
            return kind, (value.key,)  # its own way is a function without a module
        if kind is Remote:
            return _mine, (value._remote_number,)
        if self.link.sends(value, self.strict):
            return NotImplemented
        return _theirs, (self.link.export(value), kind.__module__, kind.__qualname__)


class _Finding:
    """Finds classes for an unpickler by way of its link."""

    link: Link

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__:
            own = {"_theirs": self.link.remote, "_mine": self.link.exported, "_strings": _strings}
            return own[name]
        return self.link.find(module, name)


class Unpickler(_Finding, pickle.Unpickler):
    """For the code's process, which believes the judge."""

    def __init__(self, link: Link, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.link = link


class CarefulUnpickler(_Finding, PurePython):  # type: ignore[misc]
    """For the judge. An object's state holds data only: no method of it can be replaced by one of the code's."""

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
            raise LinkError(f"{type(owner).__name__} has no state of its own")
        if hasattr(owner, "_metadata") and isinstance(state, dict):  # a table or a column
            state = {key: value for key, value in state.items() if key in TABLE_STATE}
            self.stack[-1] = state
        parts = [*state] if isinstance(state, tuple | list) else [state]
        values = [value for part in parts for value in (part.values() if isinstance(part, dict) else [part])]
        if any(callable(value) for value in values):
            raise LinkError(f"the state of {type(owner).__name__} holds what can be called")
        super().load_build()
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None and isinstance(owner, numpy.dtype) and not _is_sound(owner):
            raise LinkError("a dtype that is none")

    def load_reduce(self) -> None:
        if type(self.stack[-2]) is Remote:
            raise LinkError("a message calls its sender")
        _check_made(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        _check_made(self.stack[-2])
        super().load_newobj()

    def load_newobj_ex(self) -> None:
        _check_made(self.stack[-3])
        super().load_newobj_ex()

    def _instantiate(self, klass: Any, args: Any) -> None:
        raise LinkError("an opcode of old protocols")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex


def _holds_data(owner: Any, state: Any) -> bool:
    """Whether `owner` is an array of pandas with a mask, and `state` its parts."""
    pandas: Any = sys.modules.get("pandas")
    is_array = pandas is not None and isinstance(owner, pandas.api.extensions.ExtensionArray)
    return is_array and isinstance(state, dict) and state.keys() <= {"_data", "_mask", "_dtype", "_cache"}


def _check_made(function: Any) -> None:
    """numpy's own messages make arrays with `_reconstruct` or `_frombuffer`; `ndarray` itself would take any bytes for
    addresses of objects."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(function, type) and issubclass(function, numpy.ndarray):
        raise LinkError("a message makes an array of bytes")


def _is_sound(dtype: Any) -> bool:
    """Whether flags and offsets of an unpickled dtype are what numpy itself would give it."""
    import numpy

    if dtype.subdtype is not None:
        return _is_sound(dtype.subdtype[0]) and dtype.hasobject == dtype.subdtype[0].hasobject
    if dtype.names is None:
        return bool(dtype.hasobject == (dtype.kind == "O"))
    fields = [dtype.fields[name] for name in dtype.names]
    made = numpy.dtype(
        {
            "names": list(dtype.names),
            "formats": [field[0] for field in fields],
            "offsets": [field[1] for field in fields],
            "itemsize": dtype.itemsize,
        }
    )
    return all(_is_sound(field[0]) for field in fields) and bool(dtype.hasobject == made.hasobject)


TABLE_STATE = ("_mgr", "_typ", "_flags", "attrs", "_name", "name")
