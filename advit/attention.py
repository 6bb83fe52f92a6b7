"""Anomaly attention: series-association (softmax) and prior-association (Gaussian in patch distance)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from advit.minimax_attention import Minimax, minimax_attention
from advit.patches import squared_patch_distances
from advit.precision import full_precision


@dataclass(frozen=True)
class Associations:
    """Both associations of one layer, as what they follow from; the N x N matrices are made when asked for.

    ``queries, keys (batch, head, N, d_h)``. ``sigma (batch, head, N)``: the prior's learned scale, in patch units.
    The N patches form a square grid. ``discrepancy``: the layer's mean, in nats, if it was asked for.
    """

    queries: Tensor
    keys: Tensor
    sigma: Tensor
    discrepancy: Tensor | None = None

    @property
    def series(self) -> Tensor:
        """Series-association ``(batch, head, N, N)``, rows sum to 1; differentiable, but training never stores it."""
        return series_association(self.queries, self.keys)

    @property
    def prior(self) -> Tensor:
        """Prior-association ``(batch, head, N, N)``, rows sum to 1; differentiable, but training never stores it."""
        n = self.sigma.shape[-1]
        return prior_association(self.sigma, squared_patch_distances(n, slice(0, n), self.sigma))


def series_association(queries: Tensor, keys: Tensor) -> Tensor:
    """Series-association S = softmax(Q K^T / sqrt(d_h)) of ``(batch, head, N, d_h)``: ``(batch, head, N, N)``.

    Source: Anomaly Transformer, eq. 2. Test: tests/test_eq_attention.py
    """
    return torch.softmax(full_precision(queries @ keys.transpose(-1, -2)) * queries.shape[-1] ** -0.5, dim=-1)


def prior_scale(raw: Tensor, sigma_max: float) -> Tensor:
    """Scale of the prior-association, sigma = (1 + sigma_max)^(sigmoid(5 s) + 1e-5) - 1, in patch units.

    For sigma_max = 2 this is Anomaly Transformer's 3^(sigmoid(5 s) + 1e-5) - 1, in (0, 2).

    Differs: the range is an argument, because distances on a 2-D grid have another range than on a time axis.
    Test: tests/test_eq_attention.py
    """
    return torch.expm1(math.log1p(sigma_max) * (torch.sigmoid(5.0 * raw) + 1e-5))


def prior_association(sigma: Tensor, squared_distances: Tensor) -> Tensor:
    """Prior-association P_ij = exp(-D_ij^2 / (2 sigma_i^2)) / sum_j exp(-D_ij^2 / (2 sigma_i^2)).

    Args:
        sigma: ``(batch, head, N)`` in patch units, > 0.
        squared_distances: ``(N, N)``, D_ij^2 in squared patch units.

    Returns:
        ``(batch, head, N, N)``, rows sum to 1.

    Differs: Anomaly Transformer's code keeps the factor 1 / (sqrt(2 pi) sigma) and normalises at every use;
    the factor cancels in the normalisation, which is done once, here.
    Test: tests/test_eq_attention.py
    """
    precision = 0.5 / sigma.square()
    return torch.softmax(-precision[..., None] * squared_distances, dim=-1)


class AnomalyAttention(nn.Module):
    """Multi-head attention that also predicts a prior-association per head (Anomaly Transformer, eq. 2).

    Series-association S = softmax(Q K^T / sqrt(d / M)); output (S V) W; sigma_i per head from token i.

    Args:
        dim: width d, divisible by ``heads``.
        heads: M.
        grid: patches along one side, N = grid**2.
        sigma_max: upper end of the prior's scale, in patch units.

    Test: tests/test_eq_attention.py
    """

    def __init__(self, *, dim: int, heads: int, grid: int, sigma_max: float) -> None:
        super().__init__()
        self.heads, self.sigma_max = heads, sigma_max
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_sigma = nn.Linear(dim, heads)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, minimax: Minimax | None = None) -> tuple[Tensor, Associations]:
        """``(batch, N, d)`` tokens to ``(batch, N, d)`` outputs and the layer's associations.

        ``minimax``: also compute the discrepancy, in the same pass.
        """
        qkv = rearrange(self.to_qkv(tokens), "b n (three m h) -> three b m n h", three=3, m=self.heads)
        q, k, v = qkv.contiguous()
        sigma = prior_scale(rearrange(full_precision(self.to_sigma(tokens)), "b n m -> b m n"), self.sigma_max)
        if minimax is None:
            mixed, discrepancy = F.scaled_dot_product_attention(q, k, v), None
        else:
            mixed, discrepancy = minimax_attention(q, k, v, sigma, minimax)
        return self.to_out(rearrange(mixed, "b m n h -> b n (m h)")), Associations(q, k, sigma, discrepancy)
