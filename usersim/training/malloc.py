"""Memory of training processes and engines on CPUs."""

from __future__ import annotations

import ctypes

# malloc.h of glibc
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
PAD = 64 << 20


def keep_pages() -> bool:
    """From now on this process keeps memory that it has freed, for its next allocations; False without glibc.

    Training asks for the same hundreds of megabytes at every step. glibc maps each such block anew, the kernel
    clears its pages one fault at a time, and on two cores that took more than half of a step
    (`benchmarks/tuning.py`). The process stays as large as it was at its largest.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # macOS, musl
        return False
    return all([mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, -1), mallopt(TOP_PAD, PAD)])
