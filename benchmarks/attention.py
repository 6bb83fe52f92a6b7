"""Association discrepancy and the whole attention layer: ours, published, and plain attention of the same size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from advit.attention import Associations
from advit.discrepancy import association_discrepancy, minimax_discrepancy
from advit.minimax_attention import Minimax, minimax_attention
from advit.patches import patch_distances
from benchmarks.published_attention import (
    equal_smoothing,
    published_backward,
    published_discrepancy,
    published_losses,
    published_prior,
    published_series,
)

HEADS = 8


@dataclass
class Inputs:
    """Queries, keys, values ``(batch, 8, N, width)``, scales ``(batch, 8, N)``, gradient of the output, distances."""

    q: Tensor
    k: Tensor
    v: Tensor
    sigma: Tensor
    towards: Tensor
    distances: Tensor | None

    @property
    def leaves(self) -> list[Tensor]:
        return [self.q, self.k, self.v, self.sigma]


def inputs(n: int, batch: int, width: int, published: bool = True) -> Inputs:
    """Seeded inputs; the N x N distances only for the published formulation."""
    g = torch.Generator().manual_seed(0)
    q, k, v, towards = (torch.randn(batch, HEADS, n, width, generator=g) for _ in range(4))
    sigma = torch.rand(batch, HEADS, n, generator=g) * 2 + 0.1
    leaves = [x.requires_grad_() for x in (q, k, v, sigma)]
    return Inputs(*leaves, towards, patch_distances(math.isqrt(n)) if published else None)


def our_discrepancy(x: Inputs, kernels: str = "plain") -> Tensor:
    """Value, and gradients towards q, k and sigma in one backward pass."""
    value = minimax_discrepancy([Associations(x.q, x.k, x.sigma)], equal_smoothing(x.q.shape[2]), "both", kernels)
    value.backward()
    return value.detach()


def our_value(x: Inputs, kernels: str = "plain") -> Tensor:
    """Value alone."""
    with torch.no_grad():
        return association_discrepancy([Associations(x.q, x.k, x.sigma)], equal_smoothing(x.q.shape[2]), kernels).mean()


def published_value(x: Inputs) -> Tensor:
    """Value alone, one loss of the two."""
    with torch.no_grad():
        return published_discrepancy(x.q, x.k, x.sigma, x.distances)[0]


def published_both(x: Inputs) -> Tensor:
    """Both losses and both backward passes."""
    maximise, minimise = published_discrepancy(x.q, x.k, x.sigma, x.distances)
    published_backward(maximise, minimise)
    return maximise.detach()


def our_attention(x: Inputs, kernels: str = "plain") -> Tensor:
    """Output and discrepancy, and the gradient of both."""
    out, value = minimax_attention(x.q, x.k, x.v, x.sigma, Minimax(equal_smoothing(x.q.shape[2]), "both", kernels))
    torch.autograd.backward([out, value], [x.towards, None])
    return out.detach()


def published_attention(x: Inputs) -> Tensor:
    """The same with all matrices stored and two backward passes."""
    series = published_series(x.q, x.k)
    maximise, minimise = published_losses(series, published_prior(x.sigma, x.distances))
    out = series @ x.v
    torch.autograd.backward([out, -maximise], [x.towards, None], retain_graph=True)
    minimise.backward()
    return out.detach()


def plain_attention(x: Inputs) -> Tensor:
    """scaled_dot_product_attention, forward and backward: no discrepancy."""
    out = F.scaled_dot_product_attention(x.q, x.k, x.v)
    out.backward(x.towards)
    return out.detach()


FUNCTIONS = {
    f.__name__: f
    for f in (
        our_discrepancy, our_value, published_value, published_both, our_attention, published_attention,
        plain_attention,
    )
}  # fmt: skip


def case(name: str) -> Callable[..., Callable[[], float]]:
    """A case for the worker: one function on inputs of a size; ``options`` are the function's."""

    def build(n: int, batch: int, width: int, **options: str) -> Callable[[], float]:
        FUNCTIONS[name](inputs(16, 1, width), **options)  # libraries are loaded before memory is looked at
        x = inputs(n, batch, width, name.startswith("published"))
        for leaf in x.leaves:
            leaf.grad = torch.zeros_like(leaf)
        return lambda: float(FUNCTIONS[name](x, **options).mean())

    return build


CASES: dict[str, Any] = {name: case(name) for name in FUNCTIONS}


def flop(n: int, batch: int, width: int, products: int) -> float:
    """Floating-point operations of so many N x N x width matrix products per head."""
    return 2.0 * products * batch * HEADS * n * n * width
