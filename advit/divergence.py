"""The symmetric KL of both associations in blocks of rows, with its gradient in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from advit.blocks import LOG2_E, Workspace, add_product, blocks, log, row_sum, transposed_total
from advit.patches import squared_patch_distances


class Divergence:
    """Symmetric KL of every row, and the gradient of its sum weighted by ``weight``; fed with S block by block.

    S = softmax(q k^T / sqrt(d_h)), P = softmax(-a D^2), a = 1 / (2 sigma^2). Smoothing leaves a common factor: with
    c = eps / (N (1 - eps)), S' / P' = (S + c) / (P + c) =: t, and row by row

        value            (1 - eps) sum_j (S_j - P_j) log t_j
        d / d logits_j   (1 - eps) S_j (h_j - sum_i S_i h_i),        h_j = log t_j - 1 / t_j
        d / d a          (1 - eps) sum_j P_j (h_j - E[h]) D^2_j,     h_j = log t_j + t_j,  E over P

    Args:
        q, k: ``(pair, N, d_h)``. sigma: ``(pair, N)``. weight: ``(pair, N)``, or None if no gradient is wanted.
        needed: whether the gradients towards q and k, and towards sigma, are wanted.

    ``value (pair, N)``; ``d_q``, ``d_k``, ``d_sigma``, each None where not wanted: complete after the last block.

    Test: tests/test_eq_discrepancy.py
    """

    def __init__(
        self, q: Tensor, k: Tensor, sigma: Tensor, eps: float, weight: Tensor | None, needed: Sequence[bool]
    ) -> None:
        self.q, self.k, self.sigma, self.weight = q, k, sigma, weight
        self.share, self.c = 1 - eps, eps / (q.shape[1] * (1 - eps))
        self.value, self.a = torch.empty_like(sigma), 0.5 / sigma.square()[..., None]
        self.d_q = torch.empty_like(q) if needed[0] else None
        self.d_k_transposed = transposed_total(k) if needed[0] else None
        self.d_sigma = torch.empty_like(sigma) if needed[1] else None
        self.rows: slice | None = None

    @property
    def d_k(self) -> Tensor | None:
        return None if self.d_k_transposed is None else self.d_k_transposed.transpose(1, 2)

    def add(self, p: slice, r: slice, s: Tensor, work: Workspace) -> None:
        """Take in the block S ``(pairs, rows, N)`` of pairs ``p`` and rows ``r``; overwrites the buffer "logits"."""
        if r != self.rows:
            self.squared, self.rows = squared_patch_distances(s.shape[-1], r, self.sigma), r
        prior = torch.mul(self.squared, self.a[p, r] * -LOG2_E, out=work.buffer("prior", s.shape)).exp2_()
        prior.mul_(1 / row_sum(prior))
        smooth_prior = torch.add(prior, self.c, out=work.buffer("log", s.shape))
        ratio = torch.add(s, self.c, out=work.buffer("logits", s.shape)).div_(smooth_prior)
        log_ratio = log(ratio, out=smooth_prior)
        prior_log = torch.mul(prior, log_ratio, out=work.buffer("prior log", s.shape))
        s_log = log_ratio.mul_(s)
        torch.sub(row_sum(s_log), row_sum(prior_log), out=self.value[p, r, None]).mul_(self.share)
        if self.d_sigma is not None:
            h = prior_log.addcmul_(prior, ratio)
            d_a = row_sum(h.addcmul_(prior, row_sum(h), value=-1).mul_(self.squared))[..., 0]
            self.d_sigma[p, r] = d_a * self.sigma[p, r].pow(-3) * self.weight[p, r] * -self.share
        if self.d_q is not None:
            h = s_log.addcdiv_(s, ratio, value=-1)
            h = work.short("h", h.addcmul_(s, row_sum(h), value=-1))
            factor = self.q.shape[-1] ** -0.5 * self.share * self.weight[p, r, None]
            self.d_q[p, r] = work.product("columns", h, self.k[p]) * factor
            scaled = (self.q[p, r] * factor).to(self.q.dtype)
            add_product(self.d_k_transposed, p, r, scaled.transpose(1, 2), h, work)


def series_block(q: Tensor, k: Tensor, p: slice, r: slice, work: Workspace) -> Tensor:
    """S = softmax(q k^T / sqrt(d_h)) of pairs ``p`` and rows ``r``, in the buffer "series"; overwrites "logits"."""
    logits = work.full_product("logits", q[p, r], k[p].transpose(1, 2), q.shape[-1] ** -0.5)
    return torch.softmax(logits, dim=-1, out=work.buffer("series", logits.shape))


def divergence_of(
    q: Tensor, k: Tensor, sigma: Tensor, eps: float, weight: Tensor | None, needed: Sequence[bool]
) -> Divergence:
    """:class:`Divergence` after all blocks."""
    found, work = Divergence(q, k, sigma, eps, weight, needed), Workspace(q)
    for p, r in blocks(*q.shape[:2], q):
        found.add(p, r, series_block(q, k, p, r, work), work)
    return found
