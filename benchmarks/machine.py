"""Facts about the machine, and its matrix-product peak."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from advit.results import code_version, versions
from benchmarks.timing import side_by_side


def processor() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def facts() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
        **code_version(),
    }


def matmul_gflops(side: int, repeats: int) -> float:
    """Achieved GFLOP/s of the product of two square float32 matrices."""
    a, out = torch.randn(side, side), torch.empty(side, side)
    seconds = side_by_side({"product": lambda: torch.mm(a, a, out=out)}, repeats)["product"]
    return 2 * side**3 / seconds / 1e9
