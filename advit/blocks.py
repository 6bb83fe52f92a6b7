"""Tools to compute with N x N matrices in blocks of bounded size, so that those of all pairs are never stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from advit.config import must_be_chosen
from advit.native import native_library
from advit.precision import full_precision

BLOCK_BYTES = 2**21  # of one block in full precision; some ten of them are at work together
TOGETHER = 2  # pairs in a block, if there are as many rows: a matrix library then has a product for each of its threads


def blocks(pairs: int, n: int, like: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of (batch, head) pairs and of rows: whole pairs while they fit in a block, else rows of TOGETHER pairs.
    A pair's first rows come first (:func:`add_rows`).

    At most half of the pairs: on a CPU, malloc then keeps what a block frees, where it would give back what all pairs
    free together, and take it anew in every step.
    """
    size = BLOCK_BYTES if like.device.type == "cpu" else 2**27
    room = max(1, size // (n * full_precision(like[:0]).element_size()))  # rows
    together = max(1, min(max(room // n, TOGETHER), room, (pairs + 1) // 2))
    rows = min(n, room // together)
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


def resolve_kernels(kernels: str, like: Tensor) -> str:
    """What a config's ``kernels`` is for tensors ``like``: "plain", "native" (pairs.cpp) or "compiled" (torch.compile).

    "fused" is native on a CPU and compiled elsewhere; "auto" native on a CPU and plain elsewhere. What would be native
    is plain where no C++ compiler makes pairs.cpp; of "fused" a warning says so. ValueError for any other name.
    Test: tests/test_blocks.py
    """
    must_be_chosen("kernels", kernels, "kernels")
    if kernels == "plain" or (kernels == "auto" and like.device.type != "cpu"):
        return "plain"
    if like.device.type != "cpu":
        return "compiled"
    library, why = native_library()
    if library is None and kernels == "fused":
        say_once(f"kernels=fused: kernels=plain is used. {why}")
    return "plain" if library is None else "native"


@cache
def say_once(message: str) -> None:
    """A warning, unless it was said before."""
    warnings.warn(message, stacklevel=3)


def kernel(step: Callable[..., Any], kernels: str) -> Callable[..., Any]:
    """The step that computes a block, "plain" or "compiled"; both compute the same."""
    return fused(step) if kernels == "compiled" else step


@cache
def fused(step: Callable[..., Any]) -> Callable[..., Any]:
    """``step``, its arithmetic fused by ``torch.compile``: made in seconds at the first call with tensors of a size.

    Where that fails, a warning says so, and ``step`` itself computes the same.
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
