"""Memory that is freed stays with the process: training frees and wants the same megabytes in every step."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT = 2**30  # bytes that may stay free on top of the heap
ON_HEAP = 2**25  # bytes of one block, the most that glibc takes: larger ones still go back to the system at once


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, for the rest of the process; True if it accepts.

    By default it gives much of it back, and the system hands it out again page by page, each cleared: nine tenths of
    the page faults of a training run. Values are the same, the largest memory a few hundredths more. Elsewhere than on
    glibc, and where the environment says otherwise (``MALLOC_...``, ``GLIBC_TUNABLES``), nothing happens.

    Chosen: PyTorch's tuning guide advises the same, or another allocator. Test: tests/test_allocator.py
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, ON_HEAP)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
