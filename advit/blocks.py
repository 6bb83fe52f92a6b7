"""Tools to compute with N x N matrices in blocks of rows of bounded size, so that none is ever stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from advit.precision import full_precision

BLOCK_BYTES = 2**20  # of one block in full precision; some ten of them are at work together


def blocks(pairs: int, n: int, like: Tensor, kernels: str = "plain") -> Iterator[tuple[slice, slice]]:
    """Slices of (batch, head) pairs and of rows: whole pairs while they fit in a block, but at most half of them; else
    rows of one pair. A pair's first rows come first (:func:`add_rows`).

    Fused arithmetic holds fewer blocks at a time, so that they may be larger. Half of the pairs: on a CPU, malloc then
    keeps what a block frees, where it would give back what all pairs free together, and take it anew in every step.
    """
    size = BLOCK_BYTES * (1 + (kernels == "fused")) if like.device.type == "cpu" else 2**27
    room = max(1, size // (n * full_precision(like[:0]).element_size()))
    rows, together = min(n, room), max(1, min(room // n, (pairs + 1) // 2))
    for row in range(0, n, rows):
        for pair in range(0, pairs, together):
            yield slice(pair, min(pair + together, pairs)), slice(row, min(row + rows, n))


def row_sum(x: Tensor) -> Tensor:
    """Sum over the last axis, which stays with length 1."""
    return x.sum(dim=-1, keepdim=True)


def transposed_empty(x: Tensor) -> Tensor:
    """Room ``(pair, width, N)`` for sums like ``x (pair, N, width)``, in full precision: see :func:`add_rows`."""
    return torch.empty(len(x), x.shape[2], x.shape[1], dtype=full_precision(x[:0]).dtype, device=x.device)


def add_rows(total: Tensor, pairs: slice, rows: slice, part: Tensor) -> None:
    """A block's part of a sum over rows: the first of :func:`blocks` writes it, the others add theirs."""
    if rows.start == 0:
        total[pairs] = part
    else:
        total[pairs] += part


def without_autocast(x: Tensor) -> torch.autocast:
    """A block chooses its precision itself."""
    return torch.autocast(x.device.type, enabled=False)


def kernel(step: Callable[..., Any], kernels: str) -> Callable[..., Any]:
    """``step`` as it is for "plain", or with its arithmetic fused."""
    return fused(step) if kernels == "fused" else step


@cache
def fused(step: Callable[..., Any]) -> Callable[..., Any]:
    """``step``, its arithmetic fused by ``torch.compile``: made in seconds at the first call with tensors of a size.

    Where that fails (it wants a C++ compiler), a warning says so, and ``step`` itself computes the same.
    Test: tests/test_blocks.py
    """
    use = [torch.compile(step, dynamic=False, fullgraph=True)]  # fails where it would give up silently

    def call(*arguments: Any) -> Any:
        if use[0] is step:
            return step(*arguments)
        try:
            return use[0](*arguments)
        except Exception as error:  # whatever a compiler raises
            why = str(error).strip().partition("\n")[0]
        found = step(*arguments)  # raises what is an error of the arguments
        use[0] = step
        warnings.warn(f"kernels=fused: torch.compile failed, so that kernels=plain is used. {why}", stacklevel=2)
        return found

    return call
