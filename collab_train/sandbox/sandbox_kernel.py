"""Unprivileged Linux kernel protections of the sandbox, through ctypes: Landlock and seccomp.

Landlock (landlock(7), from kernel 5.13) decides which files may be opened. A seccomp filter (seccomp(2)) allows the
system calls of `sandbox_calls` and refuses all others, those of later kernels too. Code that cannot start a process
leaves none to kill.
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

UNPRIVILEGED_ID = 65534
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SECCOMP, NO_NEW_PRIVILEGES = 1, 4, 22, 38
FILTER = 2
CAPABILITIES_VERSION = 0x20080522

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RIGHTS_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""All file rights by version of Landlock. Later versions add rights to other objects than files."""
EXECUTE, WRITE, READ, LIST, TRUNCATE = 1, 2, 4, 8, 1 << 14

LOAD, EQUALS, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Classic BPF opcodes: load a word of `seccomp_data`, conditional jumps, return."""
ALLOW, ERROR = 0x7FFF0000, 0x00050000
"""Filter results. An errno is added to `ERROR`; errno 0 reports success without making the call."""
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24
"""Offsets in `struct seccomp_data`; for arguments, of the low halves, as all checked arguments are ints."""
OF_A_THREAD = 0x10000
FOREIGN_TABLE = 0x40000000
CLONE3 = 435


def drop_privileges(readable: list[str]) -> None:
    """Changes from root to user 65534, if that user can read this Python."""
    if os.geteuid() == 0 and all(map(_open_to_all, [*readable, "."])):
        os.chown(".", UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        os.setgroups([])
        os.setgid(UNPRIVILEGED_ID)
        os.setuid(UNPRIVILEGED_ID)


def _open_to_all(path: str) -> bool:
    """True if all users can reach and read `path`. The working directory itself is exempt: its owner changes."""
    full_path = Path(path).resolve()
    for folder in (full_path, *full_path.parents)[path == "." :]:
        if not folder.stat().st_mode & (0o001 if folder.is_dir() else 0o004):
            return False
    return True


def landlock(readable: list[str]) -> bool:
    """Restricts files to reading below `readable` and all access in the working directory.

    Returns:
        False if this kernel has no Landlock.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    all_rights = RIGHTS_OF_VERSION[min(version, 3)]
    handled = ctypes.c_uint64(all_rights)
    rules = libc.syscall(CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    for path in readable:
        device = path.startswith("/dev/")
        _allow(libc, rules, path, (READ | WRITE | TRUNCATE if device else EXECUTE | READ | LIST) & all_rights)
    _allow(
        libc, rules, f"/proc/{os.getpid()}", (READ | LIST) & all_rights
    )  # libraries read their own memory map
    _allow(libc, rules, ".", all_rights)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return bool(libc.syscall(RESTRICT_SELF, rules, 0) == 0)


class _Beneath(ctypes.Structure):
    """C struct `landlock_path_beneath_attr`."""

    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _allow(libc: ctypes.CDLL, rules: int, path: str, rights: int) -> None:
    if not Path(path).is_dir():
        rights &= EXECUTE | WRITE | READ | TRUNCATE  # the rights that apply to a single file
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = _Beneath(rights, folder)
    libc.syscall(ADD_RULE, rules, 1, ctypes.byref(rule), 0)
    os.close(folder)


def seccomp() -> bool:
    """Installs the filter of system calls, drops capabilities, and ties the process's life to its parent's.

    Returns:
        False if this kernel or machine does not support it.
    """
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
    """Makes this process dumpable again after it gave up root, so that it can read /proc of its children."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(SET_DUMPABLE, 1, 0, 0, 0)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


class _Instruction(ctypes.Structure):
    """C struct `sock_filter`: opcode, jump offsets if true and if false, operand."""

    _fields_ = (
        ("what", ctypes.c_uint16),
        ("so", ctypes.c_uint8),
        ("not_so", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """C struct `sock_fprog`."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))

    def __init__(self, length: int, instructions: ctypes.Array[_Instruction]) -> None:
        super().__init__(length, ctypes.cast(instructions, ctypes.POINTER(_Instruction)))


def conditions(pid: int) -> dict[str, tuple[int, int, frozenset[int]]]:
    """Returns, by call, the offset, comparison and allowed values of an argument.

    They allow threads, signals of the process to itself, and harmless queries.
    """
    own_process = frozenset({0, pid})
    return {
        "clone": (FIRST_ARGUMENT, HAS_BIT, frozenset({OF_A_THREAD})),
        "kill": (FIRST_ARGUMENT, EQUALS, frozenset({pid})),
        "tgkill": (FIRST_ARGUMENT, EQUALS, frozenset({pid})),
        "prlimit64": (FIRST_ARGUMENT, EQUALS, own_process),
        "sched_setaffinity": (FIRST_ARGUMENT, EQUALS, own_process),
        # Names of threads and of memory. Not the death signal, which ties its life to its parent's.
        "prctl": (FIRST_ARGUMENT, EQUALS, frozenset({15, 16, 0x53564D41})),
        # Descriptors, their flags, locks, pipe sizes. Not owners and leases: the kernel signals others by them.
        "fcntl": (SECOND_ARGUMENT, EQUALS, frozenset({0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032})),
        # Is it a terminal, its width, bytes to read, close-on-exec, non-blocking.
        "ioctl": (SECOND_ARGUMENT, EQUALS, frozenset({0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451})),
        "socketpair": (FIRST_ARGUMENT, EQUALS, frozenset({1})),
    }


def _program(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """Builds the filter as (opcode, jump if true, jump if false, operand). Its last step refuses."""

    def rule(number: int, result: int) -> list[tuple[int, int, int, int]]:
        return [(EQUALS, 0, 1, number), (RETURN, 0, 0, result)]

    steps = [
        *((LOAD, 0, 0, ARCHITECTURE), (EQUALS, 1, 0, calls.MACHINES[machine])),
        *((RETURN, 0, 0, ERROR + errno.EPERM), (LOAD, 0, 0, NUMBER)),
        *((AT_LEAST, 0, 1, FOREIGN_TABLE), (RETURN, 0, 0, ERROR + errno.EPERM)),
        # The C library falls back to clone, whose flags a filter can read.
        *rule(CLONE3, ERROR + errno.ENOSYS),
    ]
    for table, result in (
        (calls.ALLOWED, ALLOW),
        (calls.PRETENDED, ERROR),
        (calls.UNSUPPORTED, ERROR + errno.ENOTSUP),
    ):
        for number in table[machine].values():
            steps += rule(number, result)
    for name, (argument, comparison, values) in conditions(pid).items():
        steps += [(EQUALS, 0, 2 + 2 * len(values), calls.CONDITIONAL[machine][name]), (LOAD, 0, 0, argument)]
        for value in sorted(values):
            steps += [(comparison, 0, 1, value), (RETURN, 0, 0, ALLOW)]
        steps += [(RETURN, 0, 0, ERROR + errno.EPERM)]
    return [*steps, (RETURN, 0, 0, ERROR + errno.EPERM)]
