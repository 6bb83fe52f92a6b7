"""Attention and its association discrepancy in blocks of rows: in each direction S is made once for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from advit.blocks import add_rows, kernel, resolve_kernels, row_sum, transposed_empty, without_autocast
from advit.config import must_be_chosen
from advit.divergence import (
    blocks_and_distances,
    gaussian_block,
    logit_products,
    logits_block,
    prior_block,
    row_divergence,
    smoothing,
)
from advit.native import pair_attention, pair_attention_gradients
from advit.precision import full_precision


@dataclass(frozen=True)
class Minimax:
    """What training wants of the discrepancy besides its value.

    ``phases``: "both"; "maximise" or "minimise" for one phase alone; "none" for a value without gradient.
    ``kernels``: "plain", "fused" or "auto" (:func:`advit.blocks.resolve_kernels`). ValueError for any other.
    """

    eps: float
    phases: str
    kernels: str = "plain"

    def __post_init__(self) -> None:
        must_be_chosen("phases", self.phases, "minimax")
        must_be_chosen("kernels", self.kernels, "kernels")

    @property
    def moves(self) -> tuple[bool, bool]:
        """Whether its gradient moves the series-association, and the prior-association."""
        return self.phases in ("both", "maximise"), self.phases in ("both", "minimise")


class RowPeaks(NamedTuple):
    """What makes a row of both associations again without a sum over it, each ``(pair, rows, 1)``.

    ``logit``: the largest l. ``series``, ``prior``: the largest S and P, so that S = exp(l - logit) series, and
    P = exp(-a D^2) prior.
    """

    logit: Tensor
    series: Tensor
    prior: Tensor


def forward_step(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, squared: Tensor, eps: float, needed: tuple[bool, bool]
) -> tuple[Tensor, RowPeaks, Tensor, Tensor | None, Tensor | None]:
    """One block of rows: attention's output, the rows' peaks, the divergence, and E[h] and d / d a of its gradient."""
    logits = logits_block(q, k)
    s, p = torch.softmax(logits, dim=-1), prior_block(a, squared)
    peaks = RowPeaks(*(x.amax(dim=-1, keepdim=True) for x in (logits, s, p)))
    return s.to(v.dtype) @ v, peaks, *row_divergence(s, p, squared, eps, needed)[:3]


def backward_step(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, squared: Tensor, peaks: RowPeaks, mean_h: Tensor | None, eps: float,
    out: Tensor, d_out: Tensor, weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One block of rows, S made anew: gradients of q, and of k and v, transposed.

    dV = S^T dO, dS = dO V^T, and with the gradient of the divergence (:func:`row_divergence`) reversed

        d logits = S (dS - rowsum(dO O) - weight (1 - eps) (h - E[h])),   -h = u + log u,  u = 1 / t

    ``out``, ``d_out``: ``(pair, rows, d_h)``. ``weight``: of every row, a tensor without axes.
    ``mean_h``: E[h] ``(pair, rows, 1)``; None if the divergence does not move the series-association.
    """
    s = logits_block(q, k).sub_(peaks.logit).exp_().mul_(peaks.series)
    inner = full_precision(d_out @ v.transpose(1, 2))
    row = -row_sum(full_precision(d_out) * full_precision(out))
    if mean_h is None:
        inner.add_(row)
    else:
        c, weight = smoothing(s, eps), weight * (1 - eps)
        u = gaussian_block(a, squared).mul_(peaks.prior).add_(c).div_(s + c)
        inner.add_(row + weight * mean_h).addcmul_(u.log().add_(u), weight)
    return *logit_products(inner.mul_(s), q, k), d_out.transpose(1, 2) @ s.to(v.dtype)


def block_attention(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, eps: float, needed: tuple[bool, bool], kernels: str
) -> tuple[Tensor, Tensor]:
    """:func:`advit.native.pair_attention` in blocks; what is not ``needed`` is not set. "plain" or "compiled"."""
    step, out, found = kernel(forward_step, kernels), torch.empty_like(v), a.new_empty(6, *a.shape)
    for p, r, squared in blocks_and_distances(q):
        out[p, r], peaks, *of_rows = step(q[p, r], k[p], v[p], a[p, r, None], squared, eps, needed)
        for total, part in zip(found, (*of_rows, *peaks), strict=True):
            if part is not None:
                total[p, r] = part[..., 0]
    return out, found


def block_attention_gradients(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, found: Tensor, out: Tensor, d_out: Tensor, weight: Tensor, eps: float,
    moves: bool, kernels: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """:func:`advit.native.pair_attention_gradients` in blocks; ``moves``: whether the divergence takes part."""
    step, d_q, d_k, d_v = kernel(backward_step, kernels), torch.empty_like(q), transposed_empty(k), transposed_empty(v)
    for p, r, squared in blocks_and_distances(q):
        _, mean_h, _, *peaks = found[:, p, r, None]
        of_rows = RowPeaks(*peaks), mean_h if moves else None
        d_q[p, r], d_k_part, d_v_part = step(
            q[p, r], k[p], v[p], a[p, r, None], squared, *of_rows, eps, out[p, r], d_out[p, r], weight
        )
        add_rows(d_k, p, r, d_k_part)
        add_rows(d_v, p, r, d_v_part)
    return d_q, *(x.transpose(1, 2).to(q.dtype) for x in (d_k, d_v))


class _MinimaxAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d_h)) V of ``(pair, N, d_h)`` and the mean discrepancy, its gradient reversed towards q, k.

    The gradient of sigma, one number a row, is made with the value. That of q and k shares its matrix products with
    the attention's, in the backward pass.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, sigma: Tensor, minimax: Minimax) -> tuple[Tensor, Tensor]:
        (series, prior), needed, eps = minimax.moves, ctx.needs_input_grad, minimax.eps
        moves = series and (needed[0] or needed[1]), prior and needed[3]
        kernels, a = resolve_kernels(minimax.kernels, q), 0.5 / sigma.square()
        with without_autocast(q):
            if kernels == "native":
                out, found = pair_attention(q, k, v, a, eps)
            else:
                out, found = block_attention(q, k, v, a, eps, moves, kernels)
        d_sigma = found[2] * -sigma.pow(-3) / sigma.numel() if moves[1] else None
        ctx.save_for_backward(q, k, v, a, found, out, d_sigma)
        ctx.eps, ctx.kernels, ctx.moves = eps, kernels, moves[0]
        return out, found[0].mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor, gradient: Tensor):
        *of_forward, d_sigma = ctx.saved_tensors
        a, out = of_forward[3], of_forward[5]
        given, weight = (*of_forward, d_out.to(out.dtype)), gradient.to(a.dtype) / a.numel()
        with without_autocast(out):
            if ctx.kernels == "native":
                found = pair_attention_gradients(*given, float(weight) if ctx.moves else 0.0, ctx.eps)
            else:
                found = block_attention_gradients(*given, weight, ctx.eps, ctx.moves, ctx.kernels)
        return *found, None if d_sigma is None else d_sigma * gradient, None


def minimax_attention(q: Tensor, k: Tensor, v: Tensor, sigma: Tensor, minimax: Minimax) -> tuple[Tensor, Tensor]:
    """Attention's output ``(batch, head, N, d_h)`` and the layer's mean discrepancy, in nats; once differentiable.

    The gradient of the discrepancy is that of :func:`advit.discrepancy.minimax_discrepancy`. In blocks, matrix products
    are in the precision of ``q``, ``k`` and ``v``; all else is in float32 (float64 stays float64).

    Args:
        q, k, v: ``(batch, head, N, d_h)`` of one dtype, N patches of a square grid.
        sigma: ``(batch, head, N)``, float32; float64 with float64 ``q``, of which less would cost digits.

    Raises:
        TypeError: q, k and v have different dtypes. ValueError: N patches are no square grid.

    Test: tests/test_eq_minimax.py
    """
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v must have one dtype; they have {q.dtype}, {k.dtype} and {v.dtype}")
    out, discrepancy = _MinimaxAttention.apply(*(x.flatten(0, 1) for x in (q, k, v, sigma)), minimax)
    return out.unflatten(0, q.shape[:2]), discrepancy
