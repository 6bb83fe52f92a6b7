"""Precision of matrix products: which one a device does well, and back to float32 where sums need it."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST = -64.0  # of an exponent: 1e-28, far below S, P and eps / N that matter. Denormals take a CPU 50 times as long


def resolve_precision(name: str, device: torch.device) -> str:
    """"auto" to bfloat16 where the device computes with it, else to float32; any other name as it is.

    A CPU without bfloat16 instructions emulates them, several times slower than float32. Test: tests/test_model.py
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    on_cpu = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bfloat16" if device.type == "cpu" and on_cpu() else "float32"


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """``x`` on ``device``; to a GPU without waiting for what it is doing."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def unit_images(pixels: Tensor, device: torch.device, precision: str) -> Tensor:
    """uint8 images to [0, 1] on ``device``: float64 if the precision is that, else float32.

    Test: tests/test_training.py
    """
    return to_device(pixels, device).to(torch.float64 if precision == "float64" else torch.float32) / 255


def full_precision(x: Tensor) -> Tensor:
    """float32 for a half-precision tensor; float32 and float64 as they are. Test: tests/test_model.py"""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
