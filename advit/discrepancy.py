"""Association discrepancy: the readable dense formula, and the same value and gradient computed in blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from advit.attention import Associations
from advit.blocks import LOG2_E, Workspace, add_product, blocks, log, row_sum, transposed_total, without_autocast
from advit.patches import squared_patch_distances


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

    The readable reference, differentiable by autograd; :func:`association_discrepancy` computes the same in blocks.

    Source: Anomaly Transformer, eq. 3. Test: tests/test_eq_discrepancy.py
    """
    return torch.stack([symmetric_kl(a.prior, a.series, eps).mean(dim=1) for a in layers]).mean(dim=0)


def _kl_in_blocks(
    q: Tensor, k: Tensor, sigma: Tensor, eps: float, weight: Tensor | None, needed: Sequence[bool]
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Symmetric KL of every row, and the gradient of its sum weighted by ``weight``; S and P are made block by block.

    S = softmax(q k^T / sqrt(d_h)), P = softmax(-a D^2), a = 1 / (2 sigma^2). Smoothing leaves a common factor: with
    c = eps / (N (1 - eps)), S' / P' = (S + c) / (P + c) =: t, and row by row

        value            (1 - eps) sum_j (S_j - P_j) log t_j
        d / d logits_j   (1 - eps) S_j (h_j - sum_i S_i h_i),          h_j = log t_j - 1 / t_j
        d / d a          (1 - eps) sum_j P_j (h_j - E[h]) D^2_j,        h_j = log t_j + t_j,  E over P

    Args:
        q, k: ``(pair, N, d_h)``. sigma: ``(pair, N)``. weight: ``(pair, N)``, or None.
        needed: whether the gradients towards q and k, and towards sigma, are wanted.

    Returns:
        Value ``(pair, N)``; gradients towards q, k and sigma, None where not wanted.
    """
    pairs, n, width = q.shape
    work, scale = Workspace(q), width**-0.5
    value, c = torch.empty_like(sigma), eps / (n * (1 - eps))
    d_q, d_k = (torch.empty_like(q), transposed_total(k)) if needed[0] else (None, None)
    d_sigma = torch.empty_like(sigma) if needed[1] else None
    a, rows_at = 0.5 / sigma.square()[..., None], None
    for p, r in blocks(pairs, n, q):
        if r != rows_at:
            squared, rows_at = squared_patch_distances(n, r, sigma), r
        x = work.full_product("logits", q[p, r], k[p].transpose(1, 2), scale)
        s = torch.softmax(x, dim=-1, out=work.buffer("series", x.shape))
        prior = torch.mul(squared, a[p, r] * -LOG2_E, out=work.buffer("prior", x.shape)).exp2_()
        prior.mul_(1 / row_sum(prior))
        smooth_prior = torch.add(prior, c, out=work.buffer("log", x.shape))
        ratio = torch.add(s, c, out=x).div_(smooth_prior)
        log_ratio = log(ratio, out=smooth_prior)
        prior_log = torch.mul(prior, log_ratio, out=work.buffer("prior log", x.shape))
        s_log = log_ratio.mul_(s)
        value[p, r] = (row_sum(s_log) - row_sum(prior_log))[..., 0]
        if needed[1]:
            h = prior_log.addcmul_(prior, ratio)
            d_a = row_sum(h.addcmul_(prior, row_sum(h), value=-1).mul_(squared))[..., 0]
            d_sigma[p, r] = d_a * sigma[p, r].pow(-3) * weight[p, r] * (eps - 1)
        if needed[0]:
            h = s_log.addcdiv_(s, ratio, value=-1)
            h = work.short("h", h.addcmul_(s, row_sum(h), value=-1))
            factor = scale * (1 - eps) * weight[p, r, None]
            d_q[p, r] = work.product("columns", h, k[p]) * factor
            add_product(d_k, p, r, (q[p, r] * factor).to(q.dtype).transpose(1, 2), h, work)
    return value.mul_(1 - eps), d_q, None if d_k is None else d_k.transpose(1, 2), d_sigma


class _SymmetricKL(torch.autograd.Function):
    """Symmetric KL ``(pair, N)`` of both associations; the backward pass goes through the blocks once more."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, sigma: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(q, k, sigma)
        ctx.eps = eps
        with without_autocast(q):
            return _kl_in_blocks(q, k, sigma, eps, None, (False, False))[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        needed = ctx.needs_input_grad
        with without_autocast(gradient):
            found = _kl_in_blocks(*ctx.saved_tensors, ctx.eps, gradient, (needed[0] or needed[1], needed[2]))[1:]
        return *(_like(g, x) for g, x in zip(found, ctx.saved_tensors, strict=True)), None


class _MeanSymmetricKL(torch.autograd.Function):
    """Mean over pairs and rows, with the gradient towards q and k reversed.

    Every row has the same weight, so the gradient is computed with the value, while a block is in the cache.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, sigma: Tensor, eps: float) -> Tensor:
        needed = ctx.needs_input_grad
        weight = torch.full_like(sigma, 1 / sigma.numel())
        with without_autocast(q):
            value, *found = _kl_in_blocks(q, k, sigma, eps, weight, (needed[0] or needed[1], needed[2]))
        ctx.save_for_backward(*(_like(g, x) for g, x in zip(found, (q, k, sigma), strict=True)))
        return value.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        signs = (-gradient, -gradient, gradient)
        scaled = (None if g is None else g * s.to(g.dtype) for g, s in zip(ctx.saved_tensors, signs, strict=True))
        return *scaled, None


def _like(gradient: Tensor | None, x: Tensor) -> Tensor | None:
    return None if gradient is None else gradient.to(x.dtype)


def _pairs(a: Associations) -> tuple[Tensor, ...]:
    """Queries, keys and sigma with batch and head as one axis, ready for the blocks."""
    return a.queries.flatten(0, 1), a.keys.flatten(0, 1), a.sigma.flatten(0, 1)


def block_symmetric_kl(associations: Associations, eps: float) -> Tensor:
    """:func:`symmetric_kl` of one layer, ``(batch, head, N)``, in blocks; once differentiable.

    Test: tests/test_eq_discrepancy.py
    """
    return _SymmetricKL.apply(*_pairs(associations), eps).reshape(associations.sigma.shape)


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
    fixed_series, fixed_prior = phases in ("minimise", "none"), phases in ("maximise", "none")
    means = []
    for layer in layers:
        q, k, sigma = _pairs(layer)
        if fixed_series:
            q, k = q.detach(), k.detach()
        if fixed_prior:
            sigma = sigma.detach()
        means.append(_MeanSymmetricKL.apply(q, k, sigma, eps))
    return torch.stack(means).mean()
