"""Tools to compute with N x N matrices in blocks of rows that stay in a core's cache, so that none is ever stored."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from advit.precision import full_precision

BLOCK_BYTES = 2**20  # of one block in full precision: the few that are at work together stay in the cache
LOG2_E = 1 / math.log(2)  # softmax in powers of two: a CPU computes exp2 faster than exp


def blocks(pairs: int, n: int, like: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of (batch, head) pairs and of rows: whole pairs while several fit in a block, else rows of one pair."""
    size = BLOCK_BYTES if like.device.type == "cpu" else 2**27
    room = max(1, size // (n * full_precision(like[:0]).element_size()))
    rows, together = min(n, room), max(1, room // n)
    for row in range(0, n, rows):
        for pair in range(0, pairs, together):
            yield slice(pair, min(pair + together, pairs)), slice(row, min(row + rows, n))


class Workspace:
    """Buffers that every block uses again: fresh memory costs a CPU more than the arithmetic does.

    Matrix products are in the precision of ``like``, all else in full precision.
    """

    def __init__(self, like: Tensor) -> None:
        self.like, self.full = like, full_precision(like[:0]).dtype
        self.buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, shape: torch.Size, dtype: torch.dtype | None = None) -> Tensor:
        """The buffer of this name, with whatever it held; the first use must be the largest."""
        count = math.prod(shape)
        if name not in self.buffers:
            self.buffers[name] = torch.empty(count, dtype=dtype or self.full, device=self.like.device)
        return self.buffers[name][:count].view(shape)

    def product(self, name: str, a: Tensor, b: Tensor, factor: float = 1.0) -> Tensor:
        """factor A B of a batch of matrices, in the buffer of this name; in the precision of the products."""
        out = self.buffer(name, (len(a), a.shape[1], b.shape[2]), a.dtype)
        return torch.baddbmm(out, a, b, beta=0, alpha=factor, out=out)

    def full_product(self, name: str, a: Tensor, b: Tensor, factor: float = 1.0) -> Tensor:
        """The same in full precision."""
        if self.like.dtype == self.full:
            return self.product(name, a, b, factor)
        found = self.product(name + " short", a, b, factor)
        return self.buffer(name, found.shape).copy_(found)

    def short(self, name: str, x: Tensor) -> Tensor:
        """``x`` in the precision of the products."""
        return x if x.dtype == self.like.dtype else self.buffer(name, x.shape, self.like.dtype).copy_(x)


def add_product(total: Tensor, pairs: slice, rows: slice, a: Tensor, b: Tensor, work: Workspace) -> None:
    """Add A B, what one block of rows gives, to ``total (pair, width, N)``; the first block of rows sets it.

    The sum over rows is made as (wide matrix) (block), the layout that matrix libraries are fastest at.
    """
    first, part = rows.start == 0, total[pairs]
    if total.dtype == a.dtype:
        torch.baddbmm(part, a, b, beta=0 if first else 1, out=part)
    elif first:
        part.copy_(work.product("sum", a, b))
    else:
        part.add_(work.product("sum", a, b))


def transposed_total(x: Tensor) -> Tensor:
    """Uninitialised ``(pair, width, N)`` for :func:`add_product`, in full precision where a pair is cut."""
    cut = next(blocks(len(x), x.shape[1], x))[1].stop < x.shape[1]
    shape = (len(x), x.shape[2], x.shape[1])
    return torch.empty(shape, dtype=full_precision(x[:0]).dtype if cut else x.dtype, device=x.device)


def row_sum(x: Tensor) -> Tensor:
    """Sum over the last axis, which stays with length 1."""
    return x.sum(dim=-1, keepdim=True)


def log(x: Tensor, out: Tensor) -> Tensor:
    """Natural logarithm of ``x``, contiguous and above zero, in ``out``.

    NumPy's of float32 takes a third of the time of torch's where the processor has AVX-512, but one thread only.
    """
    fast = x.dtype == torch.float32 and x.device.type == "cpu" and torch.get_num_threads() <= 2
    if fast and torch.backends.cpu.get_cpu_capability() == "AVX512":
        np.log(x.numpy(), out=out.numpy())
        return out
    return torch.log(x, out=out)


def without_autocast(x: Tensor) -> torch.autocast:
    """A block chooses its precision itself."""
    return torch.autocast(x.device.type, enabled=False)
