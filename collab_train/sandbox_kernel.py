"""What a Linux kernel does for the sandbox without any privilege, through ctypes: Landlock and seccomp.

Landlock (landlock(7), kernel 5.13 on) decides which files may be opened. A seccomp filter (seccomp(2)) refuses the
system calls that make sockets or processes, signal others, look into them or leave for another namespace: what code
cannot start needs no killing.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from pathlib import Path

NOBODY = 65534
SET_DEATH_SIGNAL, SET_SECCOMP, NO_NEW_PRIVILEGES = 1, 22, 38
FILTER = 2
CAPABILITIES_VERSION = 0x20080522

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
RIGHTS_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""All rights to files that a version of Landlock knows; later versions add what is no file."""
EXECUTE, WRITE, READ, LIST, TRUNCATE = 1, 2, 4, 8, 1 << 14

LOAD, EQUALS, AT_LEAST, HAS_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Classic BPF: load a word of the call's description, conditional jumps, return."""
ALLOW, NOT_PERMITTED, NO_SUCH_CALL = 0x7FFF0000, 0x00050001, 0x00050026
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `struct seccomp_data`."""
OF_A_THREAD = 0x10000
FOREIGN_TABLE = 0x40000000
CALLS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            **{"socket": 41, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101},
            **{
                "tkill": 200,
                "tgkill": 234,
                "execveat": 322,
                "rt_sigqueueinfo": 129,
                "rt_tgsigqueueinfo": 297,
            },
            **{"process_vm_readv": 310, "process_vm_writev": 311, "unshare": 272, "setns": 308},
            **{"perf_event_open": 298, "bpf": 321, "userfaultfd": 323, "keyctl": 250},
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            **{"socket": 198, "clone": 220, "execve": 221, "kill": 129, "ptrace": 117},
            **{
                "tkill": 130,
                "tgkill": 131,
                "execveat": 281,
                "rt_sigqueueinfo": 138,
                "rt_tgsigqueueinfo": 240,
            },
            **{"process_vm_readv": 270, "process_vm_writev": 271, "unshare": 97, "setns": 268},
            **{"perf_event_open": 241, "bpf": 280, "userfaultfd": 282, "keyctl": 219},
        },
    ),
}
EVERYWHERE = {"pidfd_send_signal": 424, "io_uring_setup": 425, "clone3": 435, "pidfd_getfd": 438}


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
    """No sockets, no new processes (threads are allowed), no signals to others, no capabilities. False: not here."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in CALLS:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    steps = [_Instruction(*step) for step in _program(*CALLS[machine], os.getpid())]
    program = (_Instruction * len(steps))(*steps)
    return bool(libc.prctl(SET_SECCOMP, FILTER, ctypes.byref(_Program(len(steps), program)), 0, 0) == 0)


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


def _program(architecture: int, numbers: dict[str, int], own: int) -> list[tuple[int, int, int, int]]:
    numbers = {**numbers, **EVERYWHERE}
    steps = [
        *((LOAD, 0, 0, ARCHITECTURE), (EQUALS, 1, 0, architecture), (RETURN, 0, 0, NOT_PERMITTED)),
        *((LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, FOREIGN_TABLE), (RETURN, 0, 0, NOT_PERMITTED)),
        # The C library then uses clone, whose flags a filter can see.
        *((EQUALS, 0, 1, numbers.pop("clone3")), (RETURN, 0, 0, NO_SUCH_CALL)),
    ]
    allowed_if = {"clone": (HAS_BIT, OF_A_THREAD), "kill": (EQUALS, own), "tgkill": (EQUALS, own)}
    for name, number in numbers.items():
        if name in allowed_if:
            test, value = allowed_if[name]
            steps += [
                (EQUALS, 0, 4, number),
                (LOAD, 0, 0, FIRST_ARGUMENT),
                (test, 0, 1, value),
                (RETURN, 0, 0, ALLOW),
            ]
        else:
            steps += [(EQUALS, 0, 1, number)]
        steps += [(RETURN, 0, 0, NOT_PERMITTED)]
    return [*steps, (RETURN, 0, 0, ALLOW)]
