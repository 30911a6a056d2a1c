"""What a Linux kernel does for the sandbox without any privilege, through ctypes: Landlock and seccomp.

Landlock (landlock(7), kernel 5.13 on) decides which files may be opened. A seccomp filter (seccomp(2)) allows the
system calls of `sandbox_calls` and refuses every other one, those of later kernels too: what code cannot start needs no
killing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import sys
from pathlib import Path

try:
    import sandbox_calls as calls  # type: ignore[import-not-found]  # beside this file, where it runs on its own
except ImportError:
    from collab_train.sandbox import sandbox_calls as calls

NOBODY = 65534
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SECCOMP, NO_NEW_PRIVILEGES = 1, 4, 22, 38
FILTER = 2
CAPABILITIES_VERSION = 0x20080522

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RIGHTS_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""All rights to files that a version of Landlock knows; later versions add what is no file."""
EXECUTE, WRITE, READ, LIST, TRUNCATE = 1, 2, 4, 8, 1 << 14

LOAD, EQUALS, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Classic BPF: load a word of the call's description, conditional jumps, return."""
ALLOW, ERROR = 0x7FFF0000, 0x00050000
"""Results of a filter; an errno is added to `ERROR`, and 0 there means success without the call."""
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24
"""Offsets in `struct seccomp_data`, of the low halves of arguments: all that are looked at are ints."""
OF_A_THREAD = 0x10000
FOREIGN_TABLE = 0x40000000
CLONE3 = 435


def become_nobody(readable: list[str]) -> None:
    """Gives up root where nobody can read the Python that runs this; its capabilities in any case."""
    if os.geteuid() == 0 and all(map(_open_to_all, [*readable, "."])):
        os.chown(".", NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _open_to_all(path: str) -> bool:
    """Whether everybody may walk down to `path`; the working directory itself will be handed over."""
    whole = Path(path).resolve()
    for folder in (whole, *whole.parents)[path == "." :]:
        if not folder.stat().st_mode & (0o001 if folder.is_dir() else 0o004):
            return False
    return True


def landlock(readable: list[str]) -> bool:
    """Reading below `readable`, everything below the working directory, nothing else. False: not on this kernel."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    every = RIGHTS_OF_VERSION[min(version, 3)]
    handled = ctypes.c_uint64(every)
    rules = libc.syscall(CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    for path in readable:
        device = path.startswith("/dev/")
        _allow(libc, rules, path, (READ | WRITE | TRUNCATE if device else EXECUTE | READ | LIST) & every)
    _allow(
        libc, rules, f"/proc/{os.getpid()}", (READ | LIST) & every
    )  # libraries look at their own memory map
    _allow(libc, rules, ".", every)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return bool(libc.syscall(RESTRICT_SELF, rules, 0) == 0)


class _Beneath(ctypes.Structure):
    """landlock_path_beneath_attr"""

    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    if not Path(path).is_dir():
        rights &= EXECUTE | WRITE | READ | TRUNCATE  # all that a single file can be given
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = _Beneath(rights, folder)
    libc.syscall(ADD_RULE, rules, 1, ctypes.byref(rule), 0)
    os.close(folder)


def seccomp() -> bool:
    """Only the calls of `sandbox_calls`, no capabilities, and death with the parent. False: not here."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in calls.MACHINES:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    steps = [_Instruction(*step) for step in _program(machine, os.getpid())]
    program = (_Instruction * len(steps))(*steps)
    return bool(libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(_Program(len(steps), program)), 0, 0) == 0)


def stay_watchable() -> None:
    """Lets the watcher read /proc of its children after it gave up root, which makes a process undumpable."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(SET_DUMPABLE, 1, 0, 0, 0)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


class _Instruction(ctypes.Structure):
    """sock_filter: what, how far to jump if so and if not, operand"""

    _fields_ = (
        ("what", ctypes.c_uint16),
        ("so", ctypes.c_uint8),
        ("not_so", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """sock_fprog"""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))

    def __init__(self, length: int, instructions: ctypes.Array[_Instruction]) -> None:
        super().__init__(length, ctypes.cast(instructions, ctypes.POINTER(_Instruction)))


def conditions(own: int) -> dict[str, tuple[int, int, frozenset[int]]]:
    """Call → (offset of an argument, comparison, its values): threads, signals to itself, harmless questions."""
    own_limits = frozenset({0, own})
    return {
        "clone": (FIRST_ARGUMENT, HAS_BIT, frozenset({OF_A_THREAD})),
        "kill": (FIRST_ARGUMENT, EQUALS, frozenset({own})),
        "tgkill": (FIRST_ARGUMENT, EQUALS, frozenset({own})),
        "prlimit64": (FIRST_ARGUMENT, EQUALS, own_limits),
        "sched_setaffinity": (FIRST_ARGUMENT, EQUALS, own_limits),
        # Names of threads and of memory. Not the death signal, which ends it with its parent.
        "prctl": (FIRST_ARGUMENT, EQUALS, frozenset({15, 16, 0x53564D41})),
        # Descriptors, their flags, locks, pipe sizes. Not owners and leases, by which the kernel signals others.
        "fcntl": (SECOND_ARGUMENT, EQUALS, frozenset({0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032})),
        # Is it a terminal and how wide, how much is there to read, close-on-exec, non-blocking.
        "ioctl": (SECOND_ARGUMENT, EQUALS, frozenset({0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451})),
        "socketpair": (FIRST_ARGUMENT, EQUALS, frozenset({1})),
    }


def _program(machine: str, own: int) -> list[tuple[int, int, int, int]]:
    """The filter as (what, jump if so, jump if not, operand). Default deny: its last step refuses."""

    def answer(number: int, result: int) -> list[tuple[int, int, int, int]]:
        return [(EQUALS, 0, 1, number), (RETURN, 0, 0, result)]

    steps = [
        *((LOAD, 0, 0, ARCHITECTURE), (EQUALS, 1, 0, calls.MACHINES[machine])),
        *((RETURN, 0, 0, ERROR + errno.EPERM), (LOAD, 0, 0, NUMBER)),
        *((AT_LEAST, 0, 1, FOREIGN_TABLE), (RETURN, 0, 0, ERROR + errno.EPERM)),
        # The C library then uses clone, whose flags a filter can see.
        *answer(CLONE3, ERROR + errno.ENOSYS),
    ]
    for table, result in (
        (calls.ALLOWED, ALLOW),
        (calls.PRETENDED, ERROR),
        (calls.UNSUPPORTED, ERROR + errno.ENOTSUP),
    ):
        for number in table[machine].values():
            steps += answer(number, result)
    for name, (argument, comparison, values) in conditions(own).items():
        steps += [(EQUALS, 0, 2 + 2 * len(values), calls.CONDITIONAL[machine][name]), (LOAD, 0, 0, argument)]
        for value in sorted(values):
            steps += [(comparison, 0, 1, value), (RETURN, 0, 0, ALLOW)]
        steps += [(RETURN, 0, 0, ERROR + errno.EPERM)]
    return [*steps, (RETURN, 0, 0, ERROR + errno.EPERM)]
