"""The opponent: attention and association discrepancy as published, with everything materialised.

Anomaly Transformer's training computes, for every layer, two losses of two divergences each, on batch x heads x N x N
tensors, normalises the prior anew at every use, adds 1e-4 inside both logarithms, and makes two backward passes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CONSTANT = 1e-4  # inside both logarithms


def equal_smoothing(n: int) -> float:
    """The eps whose smoothing equals the constant: eps / (N (1 - eps)) = 1e-4.

    Our discrepancy is then (1 - eps) times the published one, value and gradient.
    """
    return n * CONSTANT / (1 + n * CONSTANT)


def published_series(q: Tensor, k: Tensor) -> Tensor:
    """S = softmax(Q K^T / sqrt(d_h)), ``(batch, head, N, N)``."""
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)


def published_prior(sigma: Tensor, distances: Tensor) -> Tensor:
    """exp(-D^2 / (2 sigma^2)) / (sqrt(2 pi) sigma) ``(batch, head, N, N)``; its rows do not sum to 1."""
    repeated = sigma[..., None].repeat(1, 1, 1, sigma.shape[-1])
    return 1 / (math.sqrt(2 * math.pi) * repeated) * torch.exp(-(distances**2) / 2 / repeated**2)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(P || Q) with 1e-4 inside both logarithms, mean over heads: ``(batch, N)``."""
    return (p * (torch.log(p + CONSTANT) - torch.log(q + CONSTANT))).sum(dim=-1).mean(dim=1)


def published_losses(series: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """(maximise, minimise): the discrepancy that moves the series-association, and the one that moves the prior."""

    def normalised() -> Tensor:
        return prior / prior.sum(dim=-1, keepdim=True).repeat(1, 1, 1, prior.shape[-1])

    fixed = series.detach()
    maximise = divergence(series, normalised().detach()) + divergence(normalised().detach(), series)
    minimise = divergence(normalised(), fixed) + divergence(fixed, normalised())
    return maximise.mean(), minimise.mean()


def published_discrepancy(q: Tensor, k: Tensor, sigma: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses of one layer."""
    return published_losses(published_series(q, k), published_prior(sigma, distances))


def published_backward(maximise: Tensor, minimise: Tensor) -> None:
    """Two backward passes; together the gradient of AD(P, sg S) - AD(sg P, S)."""
    (-maximise).backward(retain_graph=True)
    minimise.backward()
