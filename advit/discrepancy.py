"""Association discrepancy: the readable dense formula, and the same value and gradient computed in blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from advit.attention import Associations

BLOCK_BYTES = 2**20  # of one N x N block: a few of them stay in a core's cache


def smooth_association(association: Tensor, eps: float) -> Tensor:
    """Mix an association with the uniform one: (1 - eps) A + eps / N, over the last axis of length N.

    Differs: Anomaly Transformer adds 1e-4 inside both logarithms instead, which caps a discrepancy of hundreds
    of nats near 4 and leaves rows that do not sum to 1. Test: tests/test_eq_discrepancy.py
    """
    return (1 - eps) * association + eps / association.shape[-1]


def symmetric_kl(prior: Tensor, series: Tensor, eps: float) -> Tensor:
    """KL(P || S) + KL(S || P) of the smoothed rows, = sum_j (S_ij - P_ij) (log S_ij - log P_ij), in nats.

    Args:
        prior, series: ``(..., N, N)``, rows sum to 1.
        eps: smoothing, in (0, 1); bounds the value by 2 log(1 + N (1 - eps) / eps).

    Returns:
        ``(..., N)``, >= 0, and 0 only where the smoothed rows are equal.

    Source: Anomaly Transformer, eq. 3. Test: tests/test_eq_discrepancy.py
    """
    prior, series = smooth_association(prior, eps), smooth_association(series, eps)
    return ((series - prior) * (series.log() - prior.log())).sum(dim=-1)


def dense_discrepancy(layers: Sequence[Associations], eps: float) -> Tensor:
    """Association discrepancy of every patch ``(batch, N)``: mean of :func:`symmetric_kl` over layers and heads.

    The readable reference, differentiable by autograd; :func:`association_discrepancy` computes the same.

    Source: Anomaly Transformer, eq. 3. Test: tests/test_eq_discrepancy.py
    """
    return torch.stack([symmetric_kl(a.prior, a.series, eps).mean(dim=1) for a in layers]).mean(dim=0)


class _BlockSymmetricKL(torch.autograd.Function):
    """Symmetric KL of series S and prior P = softmax(-a D^2), a = 1 / (2 sigma^2), without storing P.

    Smoothing leaves a common factor: with c = eps / (N (1 - eps)), S' / P' = (S + c) / (P + c) =: t, and row by row

        value        (1 - eps) sum_j (S_j - P_j) log t_j
        d / d S_j    (1 - eps) (log t_j - 1 / t_j + 1)
        d / d a      (1 - eps) (E[h D^2] - E[h] E[D^2]),  h_j = log t_j + t_j,  E over P

    (the covariance of D^2 with d / d P_j, up to a constant that a covariance does not see). The gradients are
    computed with the value while a block is in the cache.
    """

    @staticmethod
    def forward(ctx, series: Tensor, sigma: Tensor, squared: Tensor, eps: float, series_sign: float) -> Tensor:
        n = series.shape[-1]
        c = eps / (n * (1 - eps))
        s, a = series.reshape(-1, n, n), (0.5 / sigma.square()).reshape(-1, n, 1)
        value = torch.empty(s.shape[:2], dtype=s.dtype, device=s.device)
        need_series, need_prior = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        d_series = torch.empty_like(s) if need_series else None
        d_a = torch.empty_like(value) if need_prior else None
        rows = len(s) if s.device.type != "cpu" else max(1, BLOCK_BYTES // (n * n * s.element_size()))
        for i in range(0, len(s), rows):
            block = slice(i, i + rows)
            prior = torch.softmax(squared * -a[block], dim=-1)
            ratio = (s[block] + c).div_(prior + c)
            log_ratio = ratio.log()
            value[block] = (s[block] - prior).mul_(log_ratio).sum(dim=-1)
            if need_series:
                torch.sub(log_ratio, ratio.reciprocal(), out=d_series[block]).add_(1)
            if need_prior:
                weighted = log_ratio.add_(ratio).mul_(prior)
                mean_h, mean_square = weighted.sum(dim=-1), prior.mul_(squared).sum(dim=-1)
                d_a[block] = weighted.mul_(squared).sum(dim=-1) - mean_h * mean_square
        d_sigma = None if d_a is None else d_a.reshape(sigma.shape) * -sigma.pow(-3)
        ctx.save_for_backward(d_series, d_sigma)
        ctx.shape, ctx.scale, ctx.sign = series.shape, 1 - eps, series_sign
        return value.reshape(series.shape[:-1]) * (1 - eps)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        d_series, d_sigma = ctx.saved_tensors
        gradient = gradient * ctx.scale
        if d_series is not None:
            d_series = d_series.reshape(ctx.shape) * (ctx.sign * gradient)[..., None]
        return d_series, None if d_sigma is None else d_sigma * gradient, None, None, None


def block_symmetric_kl(associations: Associations, eps: float, series_sign: float = 1.0) -> Tensor:
    """:func:`symmetric_kl` of one layer, ``(batch, head, N)``, in blocks; once differentiable.

    Args:
        series_sign: factor on the gradient towards the series-association; -1 reverses it.

    Test: tests/test_eq_discrepancy.py
    """
    a = associations
    return _BlockSymmetricKL.apply(a.series, a.sigma, a.squared_distances.to(a.series.dtype), eps, series_sign)


def association_discrepancy(layers: Sequence[Associations], eps: float) -> Tensor:
    """Association discrepancy of every patch ``(batch, N)``, in nats, computed in blocks.

    Source: Anomaly Transformer, eq. 3. Test: tests/test_eq_discrepancy.py
    """
    return torch.stack([block_symmetric_kl(a, eps).mean(dim=1) for a in layers]).mean(dim=0)


def minimax_discrepancy(layers: Sequence[Associations], eps: float, phases: str) -> Tensor:
    """Mean discrepancy whose ONE backward pass is the wanted combination of the minimax phases.

    With sg the stop-gradient, Anomaly Transformer (eq. 5) makes two backward passes and one optimiser step:
    minimise L + lambda AD(P, sg S), which moves the prior, and maximise L - lambda AD(sg P, S), which moves
    the series-association. Both discrepancies have one value; only the direction of the gradient differs. So
    the gradient of 2 L + lambda AD, reversed on its way to S, is exactly the sum of both.

    Args:
        phases: "both"; "maximise" or "minimise" for one phase alone; "none" for a value without gradient.

    Returns:
        Scalar, in nats: the plain mean discrepancy, whatever the phases.

    Differs: one evaluation and one backward pass instead of two of each. Test: tests/test_eq_minimax.py
    """
    detached = {
        "both": lambda a: a,
        "maximise": lambda a: Associations(a.series, a.sigma.detach(), a.squared_distances),
        "minimise": lambda a: Associations(a.series.detach(), a.sigma, a.squared_distances),
        "none": lambda a: Associations(a.series.detach(), a.sigma.detach(), a.squared_distances),
    }[phases]
    return torch.stack([block_symmetric_kl(detached(a), eps, series_sign=-1.0).mean() for a in layers]).mean()

