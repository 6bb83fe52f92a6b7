"""Statistics of features place by place, and how far all places share them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STRENGTHS = (1 / 24, 1 / 6, 1 / 2, 1, 2, 4, 16, 64)  # that a prior may have, in images per feature


class Moments:
    """Mean and scatter sum (f - m)(f - m)^T of the features ``(places, D)`` of pictures, in one pass (Welford)."""

    def __init__(self, places: int, width: int, device: torch.device) -> None:
        options = {"dtype": torch.float64, "device": device}
        self.count, self.mean = 0, torch.zeros(places, width, **options)
        self.scatter = torch.zeros(places, width, width, **options)

    def add(self, f: Tensor) -> None:
        """Take in one picture's features."""
        self.count += 1
        delta = f - self.mean
        self.mean += delta / self.count
        self.scatter += delta[:, :, None] * (f - self.mean)[:, None, :]

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of pictures together (Chan's formula)."""
        both = Moments(*self.mean.shape, self.mean.device)
        both.count = self.count + other.count
        apart, share = other.mean - self.mean, other.count / both.count
        both.mean = self.mean + share * apart
        both.scatter = self.scatter + other.scatter + self.count * share * apart[:, :, None] * apart[:, None, :]
        return both

    def about(self, mean: Tensor) -> Tensor:
        """Mean of (f - mean)(f - mean)^T over the pictures, ``(places, D, D)``."""
        away = self.mean - mean
        return self.scatter / self.count + away[:, :, None] * away[:, None, :]


def shrunk_covariance(moments: Moments, images: int, strength: float, least: float) -> Tensor:
    """C_u = (n C_u + a C_pooled) / (n + a) + l^2 I of n images: the posterior mean if the pooled one is worth a.

    ``least``: l. Of logarithmic features it is the share of a value below which a change is never judged.
    """
    own = moments.scatter / moments.count
    white = least**2 * torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
    return (images * own + strength * own.mean(dim=0)) / (images + strength) + white


def whitening(moments: Moments, images: int, strength: float, least: float) -> Tensor:
    """W of every place, ``(places, D, D)``: W W^T is the inverse of the shrunk covariance."""
    return torch.linalg.cholesky(torch.linalg.inv(shrunk_covariance(moments, images, strength, least)))


def prior_strength(changed: Sequence[Moments], plain: Sequence[Moments], least: float) -> float:
    """The a of :func:`shrunk_covariance`, in images, under which each half of the training images is likeliest.

    1/2 tr(C^-1 S) + 1/2 log det C, averaged over places, both ways: C from one half's pictures (``changed``: with
    their copies), S the other half's images (``plain``) about the first half's mean. With fewer than four images a
    is the number of features.

    Test: tests/test_eq_targets.py
    """
    width = changed[0].mean.shape[1]
    if min(m.count for m in plain) < 2:
        return float(width)

    def loss(strength: float) -> float:
        total = 0.0
        for fitted, own, other in ((changed[0], plain[0], plain[1]), (changed[1], plain[1], plain[0])):
            factor = torch.linalg.cholesky(shrunk_covariance(fitted, own.count, strength, least))
            fit = torch.cholesky_solve(other.about(fitted.mean), factor).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
            total += (0.5 * fit + factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)).mean().item()
        return total

    return min((width * share for share in STRENGTHS), key=loss)
