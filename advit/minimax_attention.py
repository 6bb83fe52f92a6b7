"""Attention and its association discrepancy in one pass over blocks: S is made once for both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from advit.blocks import Workspace, add_product, blocks, row_sum, transposed_total, without_autocast
from advit.divergence import Divergence, series_block


@dataclass(frozen=True)
class Minimax:
    """What training wants of the discrepancy besides its value.

    ``phases``: "both"; "maximise" or "minimise" for one phase alone; "none" for a value without gradient.
    """

    eps: float
    phases: str

    @property
    def moves(self) -> tuple[bool, bool]:
        """Whether its gradient moves the series-association, and the prior-association."""
        return self.phases in ("both", "maximise"), self.phases in ("both", "minimise")


class _MinimaxAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d_h)) V of ``(pair, N, d_h)`` and the mean discrepancy, its gradient reversed towards q, k.

    Every row of the discrepancy has the same weight, so its gradient is computed with its value, while a block is in
    the cache. Backward of the attention, with S made anew: dV = S^T dO, dS = dO V^T, d logits = S (dS - rowsum(S dS)).
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, sigma: Tensor, minimax: Minimax) -> tuple[Tensor, Tensor]:
        (series, prior), needed = minimax.moves, ctx.needs_input_grad
        moves = series and (needed[0] or needed[1]), prior and needed[3]
        work, out = Workspace(q), torch.empty_like(v)
        d = Divergence(q, k, sigma, minimax.eps, torch.full_like(sigma, 1 / sigma.numel()), moves)
        with without_autocast(q):
            for p, r in blocks(*q.shape[:2], q):
                s = series_block(q, k, p, r, work)
                out[p, r] = work.product("out", work.short("weights", s), v[p])
                d.add(p, r, s, work)
        ctx.save_for_backward(q, k, v, d.d_q, d.d_k_transposed, d.d_sigma)
        return out, d.value.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor, gradient: Tensor):
        q, k, v, d_q_divergence, d_k_divergence, d_sigma = ctx.saved_tensors
        work, scale, d_out = Workspace(q), q.shape[-1] ** -0.5, d_out.to(q.dtype)
        d_q, d_k, d_v = torch.empty_like(q), transposed_total(k), transposed_total(v)
        with without_autocast(q):
            for p, r in blocks(*q.shape[:2], q):
                s = series_block(q, k, p, r, work)
                d_logits = work.full_product("logits", d_out[p, r], v[p].transpose(1, 2)).mul_(s)
                d_logits.addcmul_(s, row_sum(d_logits), value=-1)
                add_product(d_v, p, r, d_out[p, r].transpose(1, 2), work.short("weights", s), work)
                d_logits = work.short("d logits", d_logits)
                d_q[p, r] = work.product("columns", d_logits, k[p], scale)
                add_product(d_k, p, r, (q[p, r] * scale).transpose(1, 2), d_logits, work)
        if d_q_divergence is not None:
            d_q.addcmul_(d_q_divergence, gradient.to(q.dtype), value=-1)
            d_k.addcmul_(d_k_divergence.to(d_k.dtype), gradient.to(d_k.dtype), value=-1)
        if d_sigma is not None:
            d_sigma = d_sigma * gradient
        return d_q, d_k.transpose(1, 2).to(k.dtype), d_v.transpose(1, 2).to(v.dtype), d_sigma, None


def minimax_attention(q: Tensor, k: Tensor, v: Tensor, sigma: Tensor, minimax: Minimax) -> tuple[Tensor, Tensor]:
    """Attention's output ``(batch, head, N, d_h)`` and the layer's mean discrepancy, in nats; once differentiable.

    The gradient of the discrepancy is that of :func:`advit.discrepancy.minimax_discrepancy`. Matrix products in the
    precision of ``q``, ``k`` and ``v``, all else in float32 (float64 stays float64).

    Args:
        q, k, v: ``(batch, head, N, d_h)``. sigma: ``(batch, head, N)``.

    Test: tests/test_eq_minimax.py
    """
    out, discrepancy = _MinimaxAttention.apply(*(x.flatten(0, 1) for x in (q, k, v, sigma)), minimax)
    return out.unflatten(0, q.shape[:2]), discrepancy
