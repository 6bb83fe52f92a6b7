"""The symmetric KL of both associations in blocks of rows, with its gradient in closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from advit.blocks import blocks, kernel, row_sum, transposed_zeros
from advit.patches import GridDistances, squared_distances
from advit.precision import full_precision


def series_block(q: Tensor, k: Tensor) -> Tensor:
    """S = softmax(q k^T / sqrt(d_h)) of ``(pair, rows, d_h)`` and ``(pair, N, d_h)``, in full precision.

    The scale is taken before the product, where it costs least, unless half precision would round it there.
    """
    scale, keys = q.shape[-1] ** -0.5, k.transpose(1, 2)
    logits = (q * scale) @ keys if full_precision(q) is q else full_precision(q @ keys) * scale
    return torch.softmax(logits, dim=-1)


class PriorBlock(NamedTuple):
    """Rows of the prior-association, and what the gradient of a = 1 / (2 sigma^2) needs.

    ``p``: ``(pair, rows, N)``. ``mean``: E[D^2] over each row of it, ``(pair, rows, 1)``.
    ``squared``: D^2, ``(rows, N)``.
    """

    p: Tensor
    mean: Tensor
    squared: Tensor


def prior_block(a: Tensor, distances: GridDistances) -> PriorBlock:
    """P = softmax(-a D^2) of ``a (pair, rows, 1)`` as the product of one softmax for each axis of the grid.

    Test: tests/test_blocks.py
    """
    by_row, by_column = (axis_prior(a, squared) for squared in distances[:2])
    mean = row_sum(by_row * distances.by_row) + row_sum(by_column * distances.by_column)
    return PriorBlock((by_row[..., None] * by_column[..., None, :]).flatten(-2), mean, distances.squared)


def axis_prior(a: Tensor, squared: Tensor) -> Tensor:
    """softmax(-a x^2) along one axis; the largest exponent is that of the patch itself, 0.

    A weight of which two could make a denormal number is 0 (below 1e-17 in float32): those take a CPU 50 times as long.
    """
    exponent = squared * -a
    least = 0.45 * math.log(torch.finfo(a.dtype).tiny)
    weights = torch.where(exponent < least, 0, exponent.exp())
    return weights / row_sum(weights)


def row_divergence(
    s: Tensor, prior: PriorBlock, eps: float, needed: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Symmetric KL of every row, and what its gradients towards the logits of S and towards a are made of.

    S = softmax(l), P = softmax(-a D^2). The quotient of the smoothed associations is
    t = S' / P' = (S + c) / (P + c), c = eps / (N (1 - eps)). Row by row

        value        (1 - eps) sum_j (S_j - P_j) log t_j
        d / d l_j    (1 - eps) S_j (h_j - E[h]),                 h_j = log t_j - 1 / t_j,  E over S
        d / d a      (1 - eps) (E[g D^2] - E[g] E[D^2]),         g_j = log t_j + t_j,      E over P

    Args:
        s: ``(pair, rows, N)``.
        needed: whether the gradients towards the logits, and towards a, are wanted.

    Returns:
        value, E[h] and d / d a, ``(pair, rows, 1)``, and S h; None where not wanted.

    Test: tests/test_eq_discrepancy.py
    """
    c = smoothing(s, eps)
    t = (s + c).div_(prior.p + c)
    s_log = t.log()
    p_log = prior.p * s_log
    s_log.mul_(s)
    value = (1 - eps) * (row_sum(s_log) - row_sum(p_log))
    mean_h = d_a = s_h = None
    if needed[1]:
        p_g = p_log.addcmul_(prior.p, t)
        mean_g = row_sum(p_g)
        d_a = (1 - eps) * (row_sum(p_g.mul_(prior.squared)) - mean_g * prior.mean)
    if needed[0]:
        s_h = s_log.addcdiv_(s, t, value=-1)
        mean_h = row_sum(s_h)
    return value, mean_h, d_a, s_h


def smoothing(s: Tensor, eps: float) -> float:
    """c = eps / (N (1 - eps)): A + c is the smoothed association but for a factor that cancels in quotients."""
    return eps / (s.shape[-1] * (1 - eps))


def logit_products(d_logits: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of q ``(pair, rows, d_h)``, and of k, transposed ``(pair, d_h, N)``, from that of their logits.

    The transposed product is the one that matrix libraries are fastest at.
    """
    scale, d_logits = q.shape[-1] ** -0.5, d_logits.to(q.dtype)
    return (d_logits @ k) * scale, (q * scale).transpose(1, 2) @ d_logits


def divergence_step(
    q: Tensor, k: Tensor, prior: PriorBlock, weight: Tensor, eps: float, needed: tuple[bool, bool]
) -> tuple[Tensor | None, ...]:
    """One block: the divergence, and the gradients of q, k (transposed) and a of its sum weighted by ``weight``.

    Args:
        q: ``(pair, rows, d_h)``. k: ``(pair, N, d_h)``. weight: ``(pair, rows, 1)``.
    """
    s = series_block(q, k)
    value, mean_h, d_a, s_h = row_divergence(s, prior, eps, needed)
    d_q = d_k = None
    if needed[0]:
        d_logits = s_h.addcmul_(s, mean_h, value=-1).mul_((1 - eps) * weight)
        d_q, d_k = logit_products(d_logits, q, k)
    return value, d_q, d_k, None if d_a is None else d_a * weight


def blocks_and_distances(
    q: Tensor, sigma: Tensor, kernels: str
) -> Iterator[tuple[slice, slice, GridDistances]]:
    """Pairs, rows, and the squared distances of every block."""
    last, distances = None, None
    for p, r in blocks(*q.shape[:2], q, kernels):
        if r != last:
            distances, last = squared_distances(q.shape[1], r, sigma), r
        yield p, r, distances


def divergence_of(
    q: Tensor, k: Tensor, sigma: Tensor, eps: float, weight: Tensor, needed: Sequence[bool], kernels: str = "plain"
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Symmetric KL of every row ``(pair, N)``, and the gradients of q, k and sigma of its sum weighted by ``weight``.

    Args:
        q, k: ``(pair, N, d_h)``. sigma, weight: ``(pair, N)``.
        needed: whether the gradients towards q and k, and towards sigma, are wanted; None where not.
    """
    needed, step = (bool(needed[0]), bool(needed[1])), kernel(divergence_step, kernels)
    value, a = torch.empty_like(sigma), 0.5 / sigma.square()[..., None]
    d_q, d_k = (torch.empty_like(q), transposed_zeros(k)) if needed[0] else (None, None)
    d_sigma = torch.empty_like(sigma) if needed[1] else None
    for p, r, distances in blocks_and_distances(q, sigma, kernels):
        prior = prior_block(a[p, r], distances)
        found, d_q_part, d_k_part, d_a = step(q[p, r], k[p], prior, weight[p, r, None], eps, needed)
        value[p, r] = found[..., 0]
        if needed[0]:
            d_q[p, r] = d_q_part
            d_k[p] += d_k_part
        if needed[1]:
            d_sigma[p, r] = d_a[..., 0] * -sigma[p, r].pow(-3)
    return value, d_q, d_k.transpose(1, 2).to(k.dtype) if needed[0] else None, d_sigma
