"""Association discrepancy: the readable dense formula, and the same value and gradient computed in blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from advit.attention import Associations
from advit.blocks import without_autocast
from advit.divergence import divergence_of
from advit.minimax_attention import Minimax


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


class _SymmetricKL(torch.autograd.Function):
    """Symmetric KL ``(pair, N)`` of both associations; the backward pass goes through the blocks once more."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, sigma: Tensor, eps: float, kernels: str) -> Tensor:
        ctx.save_for_backward(q, k, sigma)
        ctx.eps, ctx.kernels = eps, kernels
        with without_autocast(q):
            return divergence_of(q, k, sigma, eps, torch.ones_like(sigma), (False, False), kernels)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        needed = ctx.needs_input_grad
        with without_autocast(gradient):
            moved = needed[0] or needed[1], needed[2]
            found = divergence_of(*ctx.saved_tensors, ctx.eps, gradient, moved, ctx.kernels)
        return *found[1:], None, None


class _MeanSymmetricKL(torch.autograd.Function):
    """Mean over pairs and rows, with the gradient towards q and k reversed.

    Every row has the same weight, so the gradient is computed with the value, while a block is in the cache.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, sigma: Tensor, eps: float, kernels: str) -> Tensor:
        needed = ctx.needs_input_grad
        weight = torch.full_like(sigma, 1 / sigma.numel())
        with without_autocast(q):
            value, *gradients = divergence_of(q, k, sigma, eps, weight, (needed[0] or needed[1], needed[2]), kernels)
        ctx.save_for_backward(*gradients)
        return value.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        signs = (-gradient, -gradient, gradient)
        scaled = (None if g is None else g * s.to(g.dtype) for g, s in zip(ctx.saved_tensors, signs, strict=True))
        return *scaled, None, None


def _pairs(a: Associations) -> tuple[Tensor, ...]:
    """Queries, keys and sigma with batch and head as one axis, ready for the blocks."""
    return a.queries.flatten(0, 1), a.keys.flatten(0, 1), a.sigma.flatten(0, 1)


def block_symmetric_kl(associations: Associations, eps: float, kernels: str = "plain") -> Tensor:
    """:func:`symmetric_kl` of one layer, ``(batch, head, N)``, in blocks; once differentiable.

    Test: tests/test_eq_discrepancy.py
    """
    return _SymmetricKL.apply(*_pairs(associations), eps, kernels).reshape(associations.sigma.shape)


def association_discrepancy(layers: Sequence[Associations], eps: float, kernels: str = "plain") -> Tensor:
    """Association discrepancy of every patch ``(batch, N)``, in nats, computed in blocks.

    ``kernels``: see :func:`advit.blocks.resolve_kernels`.

    Source: Anomaly Transformer, eq. 3. Test: tests/test_eq_discrepancy.py
    """
    return torch.stack([block_symmetric_kl(a, eps, kernels).mean(dim=1) for a in layers]).mean(dim=0)


def minimax_discrepancy(layers: Sequence[Associations], eps: float, phases: str, kernels: str = "plain") -> Tensor:
    """Mean discrepancy whose ONE backward pass is the wanted combination of the minimax phases.

    With sg the stop-gradient, Anomaly Transformer (eq. 5) makes two backward passes and one optimiser step:
    minimise L + lambda AD(P, sg S), which moves the prior, and maximise L - lambda AD(sg P, S), which moves
    the series-association. Both discrepancies have one value; only the direction of the gradient differs. So
    the gradient of 2 L + lambda AD, reversed on its way to S, is exactly the sum of both.

    Args:
        phases: "both"; "maximise" or "minimise" for one phase alone; "none" for a value without gradient.
        kernels: "plain", "fused" or "auto" (:func:`advit.blocks.resolve_kernels`).

    Returns:
        Scalar, in nats: the plain mean discrepancy, whatever the phases.

    Differs: one evaluation and one backward pass instead of two of each. Test: tests/test_eq_minimax.py
    """
    series, prior = Minimax(eps, phases, kernels).moves
    means = []
    for layer in layers:
        q, k, sigma = _pairs(layer)
        if not series:
            q, k = q.detach(), k.detach()
        if not prior:
            sigma = sigma.detach()
        means.append(_MeanSymmetricKL.apply(q, k, sigma, eps, kernels))
    return torch.stack(means).mean()
