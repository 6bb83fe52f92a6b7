"""Times side by side, and peak memory in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONG = 3.0  # seconds: what takes longer is not warmed up, and runs twice at most


def side_by_side(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each function after one run to warm up; of the first run alone with ``repeats=0``.

    They take turns, so that another load on the machine meets all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            found = seconds[name]
            if found and max(found) > LONG and len(found) >= min(2, repeats):
                continue
            start = time.perf_counter()
            function()
            found.append(time.perf_counter() - start)
            if turn == 0 and repeats and found[0] < LONG:
                found.clear()  # the first run warms up
    return {name: statistics.median(found) for name, found in seconds.items()}


def peak_rss() -> int:
    """Largest memory that this process has had, in bytes.

    Linux: VmHWM, since what getrusage says counts the process that started this one, too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text(encoding="utf-8").splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_of(case: str, environment: dict[str, str] | None = None, **arguments: Any) -> dict[str, Any]:
    """What :mod:`benchmarks.worker` measures of one case in a fresh process, ``extra`` bytes among it.

    ``environment``: variables that this process has besides ours.
    """
    command = [sys.executable, "-m", "benchmarks.worker", case, json.dumps(arguments)]
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if found.returncode:
        raise RuntimeError(f"{case} {arguments} failed:\n{found.stderr[-2000:]}")
    return json.loads(found.stdout.splitlines()[-1])
