"""What is freed is kept: the same memory is not asked of the system again."""

import os
import platform
import subprocess
import sys

import pytest

LOOP = """
import resource, sys
import numpy as np
from advit.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    print(keep_freed_memory())
def step():
    arrays = [np.ones(2**21) for _ in range(4)]  # 16 MiB each
    del arrays
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 10 * 4 * 2**24 // 4096  # of all arrays


def outcome(how: str, **environment: str) -> list[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", LOOP, how]
    clean |= {"NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    found = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    return found.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
def test_freed_memory_is_not_asked_for_again():
    took_effect, faults = outcome("keep")
    assert took_effect == "True"
    assert int(faults) < PAGES / 100
    assert 10 * int(faults) < int(outcome("leave")[0])


def test_what_the_environment_says_comes_first():
    assert outcome("keep", MALLOC_ARENA_MAX="2")[0] == "False"
    assert outcome("keep", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] == "False"


def test_nothing_happens_where_there_is_no_such_library(monkeypatch):
    from advit import allocator

    def missing(name):
        raise OSError("no such library")

    for name in [n for n in os.environ if n.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(allocator.ctypes, "CDLL", missing)
    assert allocator.keep_freed_memory() is False
