"""Memory that is freed and asked for again comes without page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCK = """
import ctypes, resource, sys
from usersim.training.malloc import keep_pages
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "keep" and not keep_pages():
    sys.exit("no mallopt")
def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(size))
    libc.memset(ctypes.c_void_p(block), 1, ctypes.c_size_t(size))
    libc.free(ctypes.c_void_p(block))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults(96 << 20) for _ in range(4)][-1])
"""


def last_faults(manner: str) -> int:
    done = subprocess.run([sys.executable, "-c", BLOCK, manner], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this libc keeps memory its own way: {done.stderr.strip()}")
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_a_block_freed_and_asked_for_again_costs_no_page_faults() -> None:
    assert last_faults("keep") < 100 < last_faults("leave")
