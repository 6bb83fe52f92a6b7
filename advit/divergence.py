"""The symmetric KL of both associations in blocks of rows, with its gradient in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from advit.blocks import add_rows, blocks, kernel, resolve_kernels, row_sum, transposed_empty
from advit.native import pair_divergence
from advit.patches import squared_patch_distances
from advit.precision import LOWEST, full_precision


def logits_block(q: Tensor, k: Tensor) -> Tensor:
    """q k^T / sqrt(d_h) of ``(pair, rows, d_h)`` and ``(pair, N, d_h)``, in full precision.

    The scale is taken before the product, where it costs least, unless half precision would round it there.
    """
    scale, keys = q.shape[-1] ** -0.5, k.transpose(1, 2)
    return (q * scale) @ keys if full_precision(q) is q else full_precision(q @ keys) * scale


def gaussian_block(a: Tensor, squared: Tensor) -> Tensor:
    """exp(-a D^2) of ``(pair, rows, 1)`` and ``(rows, N)``, no exponent below LOWEST; 1 at the patch itself."""
    return (squared * -a).clamp_(min=LOWEST).exp_()


def prior_block(a: Tensor, squared: Tensor) -> Tensor:
    """P = softmax(-a D^2), a = 1 / (2 sigma^2); the largest exponent is that of the patch itself, 0.

    Test: tests/test_blocks.py
    """
    weights = gaussian_block(a, squared)
    return weights.div_(row_sum(weights))


def row_divergence(
    s: Tensor, p: Tensor, squared: Tensor, eps: float, needed: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Symmetric KL of every row, and what its gradients towards the logits of S and towards a are made of.

    S = softmax(l), P = softmax(-a D^2). The quotient of the smoothed associations is
    t = S' / P' = (S + c) / (P + c), c = eps / (N (1 - eps)). Row by row

        value        (1 - eps) sum_j (S_j - P_j) log t_j
        d / d l_j    (1 - eps) S_j (h_j - E[h]),                 h_j = log t_j - 1 / t_j,  E over S
        d / d a      (1 - eps) sum_j P_j (g_j - E[g]) D^2_j,     g_j = log t_j + t_j,      E over P

    Args:
        s, p: ``(pair, rows, N)``. squared: D^2, ``(rows, N)``.
        needed: whether the gradients towards the logits, and towards a, are wanted.

    Returns:
        value, E[h] and d / d a, ``(pair, rows, 1)``, and S h; None where not wanted.

    Test: tests/test_eq_discrepancy.py
    """
    c = smoothing(s, eps)
    t = (s + c).div_(p + c)
    s_log = t.log()
    p_log = p * s_log
    s_log.mul_(s)
    value = (1 - eps) * (row_sum(s_log) - row_sum(p_log))
    mean_h = d_a = s_h = None
    if needed[1]:
        p_g = p_log.addcmul_(p, t)
        d_a = (1 - eps) * row_sum(p_g.addcmul_(p, row_sum(p_g), value=-1).mul_(squared))
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
    return (d_logits @ k).mul_(scale), (q * scale).transpose(1, 2) @ d_logits


def divergence_step(
    q: Tensor, k: Tensor, a: Tensor, squared: Tensor, weight: Tensor, eps: float, needed: tuple[bool, bool]
) -> tuple[Tensor | None, ...]:
    """One block: the divergence, gradients of q and k (transposed) of its sum weighted by ``weight``, and d / d a.

    Args:
        q: ``(pair, rows, d_h)``. k: ``(pair, N, d_h)``. a, weight: ``(pair, rows, 1)``. squared: ``(rows, N)``.
    """
    s = torch.softmax(logits_block(q, k), dim=-1)
    value, mean_h, d_a, s_h = row_divergence(s, prior_block(a, squared), squared, eps, needed)
    d_q = d_k = None
    if needed[0]:
        d_logits = s_h.addcmul_(s, mean_h, value=-1).mul_((1 - eps) * weight)
        d_q, d_k = logit_products(d_logits, q, k)
    return value, d_q, d_k, d_a


def blocks_and_distances(q: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Pairs, rows, and D^2 ``(rows, N)`` in full precision, of every block."""
    last, squared, like = None, None, full_precision(q[:0])
    for p, r in blocks(*q.shape[:2], q):
        if r != last:
            squared, last = squared_patch_distances(q.shape[1], r, like), r
        yield p, r, squared


def block_divergence(
    q: Tensor, k: Tensor, a: Tensor, eps: float, weight: Tensor, needed: tuple[bool, bool], kernels: str
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """:func:`advit.native.pair_divergence` in blocks; ``kernels``: "plain" or "compiled"."""
    step, value = kernel(divergence_step, kernels), torch.empty_like(a)
    d_q, d_k = (torch.empty_like(q), transposed_empty(k)) if needed[0] else (None, None)
    d_a = torch.empty_like(a) if needed[1] else None
    for p, r, squared in blocks_and_distances(q):
        found = step(q[p, r], k[p], a[p, r, None], squared, weight[p, r, None], eps, needed)
        value[p, r] = found[0][..., 0]
        if needed[0]:
            d_q[p, r] = found[1]
            add_rows(d_k, p, r, found[2])
        if needed[1]:
            d_a[p, r] = found[3][..., 0]
    return value, d_q, d_k.transpose(1, 2).to(k.dtype) if needed[0] else None, d_a


def divergence_of(
    q: Tensor, k: Tensor, sigma: Tensor, eps: float, weight: Tensor, needed: Sequence[bool], kernels: str = "plain"
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Symmetric KL of every row ``(pair, N)``, and the gradients of q, k and sigma of its sum weighted by ``weight``.

    Args:
        q, k: ``(pair, N, d_h)``. sigma, weight: ``(pair, N)``.
        needed: whether the gradients towards q and k, and towards sigma, are wanted; None where not.
    """
    needed, kernels, a = (bool(needed[0]), bool(needed[1])), resolve_kernels(kernels, q), 0.5 / sigma.square()
    if kernels == "native":
        value, d_q, d_k, d_a = pair_divergence(q, k, a, eps, weight if needed[0] else None)
    else:
        value, d_q, d_k, d_a = block_divergence(q, k, a, eps, weight, needed, kernels)
    return value, d_q, d_k, d_a * weight * -sigma.pow(-3) if needed[1] else None
