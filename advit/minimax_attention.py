"""Attention and its association discrepancy in blocks of rows: in each direction S is made once for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from advit.blocks import add_rows, kernel, resolve_kernels, row_sum, transposed_empty, without_autocast
from advit.config import CHOICES
from advit.divergence import (
    LOWEST,
    blocks_and_distances,
    gaussian_block,
    logit_products,
    logits_block,
    prior_block,
    row_divergence,
    smoothing,
)
from advit.native import attention_rows, divergence_rows
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
        for name, known in (("phases", CHOICES["minimax"]), ("kernels", CHOICES["kernels"])):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(known)}")

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


def native_forward_step(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, squared: Tensor, eps: float, needed: tuple[bool, bool]
) -> tuple[Tensor, RowPeaks, Tensor, Tensor | None, Tensor | None]:
    """:func:`forward_step` on a CPU, all but its matrix products in one pass. Test: tests/test_native.py"""
    s = logits_block(q, k)
    value, mean_h, d_a, *peaks = divergence_rows(s, a, squared, eps, LOWEST)
    return s.to(v.dtype) @ v, RowPeaks(*peaks), value, mean_h if needed[0] else None, d_a if needed[1] else None


def native_backward_step(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, squared: Tensor, peaks: RowPeaks, mean_h: Tensor | None, eps: float,
    out: Tensor, d_out: Tensor, weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """:func:`backward_step` on a CPU, all but its matrix products in one pass. Test: tests/test_native.py"""
    s, inner = logits_block(q, k), full_precision(d_out @ v.transpose(1, 2))
    row, scale = -row_sum(full_precision(d_out) * full_precision(out)), float(weight) * (1 - eps)
    row, scale = (row, 0.0) if mean_h is None else (row + scale * mean_h, scale)
    attention_rows(s, inner, a, squared, torch.stack(peaks), row, scale, eps, LOWEST)
    return *logit_products(inner, q, k), d_out.transpose(1, 2) @ s.to(v.dtype)


class _MinimaxAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d_h)) V of ``(pair, N, d_h)`` and the mean discrepancy, its gradient reversed towards q, k.

    The gradient of sigma, one number a row, is made with the value. That of q and k shares its matrix products with
    the attention's, in the backward pass.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, sigma: Tensor, minimax: Minimax) -> tuple[Tensor, Tensor]:
        (series, prior), needed = minimax.moves, ctx.needs_input_grad
        moves = series and (needed[0] or needed[1]), prior and needed[3]
        kernels = resolve_kernels(minimax.kernels, q)
        step = kernel(forward_step, native_forward_step, kernels)
        out, a = torch.empty_like(v), 0.5 / sigma.square()[..., None]
        value, *peaks = (torch.empty_like(a) for _ in range(4))
        mean_h, d_sigma = (torch.empty_like(a) if moved else None for moved in moves)
        with without_autocast(q):
            for p, r, squared in blocks_and_distances(q, sigma, kernels):
                out[p, r], found, *rows = step(q[p, r], k[p], v[p], a[p, r], squared, minimax.eps, moves)
                for total, part in zip((*peaks, value, mean_h, d_sigma), (*found, *rows), strict=True):
                    if total is not None:
                        total[p, r] = part
        if d_sigma is not None:
            d_sigma = d_sigma[..., 0] * -sigma.pow(-3) / sigma.numel()
        ctx.save_for_backward(q, k, v, sigma, out, mean_h, d_sigma, *peaks)
        ctx.minimax = minimax
        return out, value.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor, gradient: Tensor):
        q, k, v, sigma, out, mean_h, d_sigma, *peaks = ctx.saved_tensors
        d_q, d_k, d_v, d_out = torch.empty_like(q), transposed_empty(k), transposed_empty(v), d_out.to(q.dtype)
        eps, kernels = ctx.minimax.eps, resolve_kernels(ctx.minimax.kernels, q)
        step = kernel(backward_step, native_backward_step, kernels)
        a, weight = 0.5 / sigma.square()[..., None], gradient.to(sigma.dtype) / sigma.numel()
        with without_autocast(q):
            for p, r, squared in blocks_and_distances(q, sigma, kernels):
                of_rows = RowPeaks(*(x[p, r] for x in peaks)), None if mean_h is None else mean_h[p, r]
                found = step(q[p, r], k[p], v[p], a[p, r], squared, *of_rows, eps, out[p, r], d_out[p, r], weight)
                d_q[p, r], d_k_part, d_v_part = found
                add_rows(d_k, p, r, d_k_part)
                add_rows(d_v, p, r, d_v_part)
        d_k, d_v = (x.transpose(1, 2).to(k.dtype) for x in (d_k, d_v))
        return d_q, d_k, d_v, None if d_sigma is None else d_sigma * gradient, None


def minimax_attention(q: Tensor, k: Tensor, v: Tensor, sigma: Tensor, minimax: Minimax) -> tuple[Tensor, Tensor]:
    """Attention's output ``(batch, head, N, d_h)`` and the layer's mean discrepancy, in nats; once differentiable.

    The gradient of the discrepancy is that of :func:`advit.discrepancy.minimax_discrepancy`. Matrix products in the
    precision of ``q``, ``k`` and ``v``, all else in float32 (float64 stays float64).

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
