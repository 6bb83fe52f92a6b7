"""Run records: where a number comes from."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("advit", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow")


def code_version() -> dict[str, Any]:
    """Commit and dirty flag of the checkout that advit was imported from; None for both outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(folder)]
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True).stdout
        if Path(top.strip()).resolve() != folder.parent:  # installed inside another project's checkout
            return {"commit": None, "dirty": None}
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True
        ).stdout
        return {"commit": commit, "dirty": bool(changed.strip())}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def device_name(device: torch.device) -> str:
    """A device in words, for instance ``cpu (x86_64, 2 threads)``."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def provenance(
    code: dict[str, Any], *, device: torch.device, seed: int, data_digest: str, seconds: float
) -> dict[str, Any]:
    """What a reader needs to trust and repeat a number: code, versions, device, seed, data and time.

    ``code``: :func:`code_version` as it was at the start; the checkout may move on meanwhile. All of it is about the
    evaluation; of the training, a run keeps a record of its own.

    Test: tests/test_evaluation.py
    """
    return {
        **code,
        "python": platform.python_version(),
        "versions": versions(),
        "device": device_name(device),
        "seed": seed,
        "data_digest": data_digest,
        "seconds": round(seconds, 1),
    }


def versions() -> dict[str, str | None]:
    """Versions of what decides the numbers."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
