"""Memory allocator settings for training processes and engines on CPUs."""

from __future__ import annotations

import ctypes

# malloc.h of glibc
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
PAD = 64 << 20


def keep_pages() -> bool:
    """Makes this process keep freed memory for its next allocations. Returns False without glibc.

    Training allocates the same hundreds of megabytes at every step. glibc maps each such block again, and the kernel
    clears its pages one fault at a time. On two cores that took more than half of a step (`benchmarks/tuning.py`). The
    process stays at its peak size.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # macOS, musl
        return False
    return all([mallopt(MMAP_MAX, 0), mallopt(TRIM_THRESHOLD, -1), mallopt(TOP_PAD, PAD)])
