"""One case in a process of its own: ``python -m benchmarks.worker CASE JSON`` prints its peak memory as JSON.

Memory is the growth of the process's largest resident size while the case runs, over the inputs.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from advit.allocator import keep_freed_memory
from benchmarks.attention import CASES as ATTENTION
from benchmarks.metrics import CASES as METRICS
from benchmarks.timing import peak_rss
from benchmarks.training import CASES as TRAINING


def measure(case: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Build the case, then run it: extra and whole peak in bytes, seconds, and what it returns."""
    run = {**ATTENTION, **METRICS, **TRAINING}[case](**arguments)
    before, start = peak_rss(), time.perf_counter()
    result = run()
    return {
        "extra": peak_rss() - before,
        "peak": peak_rss(),
        "seconds": time.perf_counter() - start,
        "result": result if isinstance(result, float | list) else None,
    }


if __name__ == "__main__":
    keep_freed_memory()
    print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
