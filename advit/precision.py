"""Half-precision results of autocast, brought back to float32 where sums and exponentials need it."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """float32 for a half-precision tensor; float32 and float64 as they are. Test: tests/test_model.py"""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
