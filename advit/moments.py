"""Statistics of features place by place, and how far all places share them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

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


def total(parts: Sequence[Moments], but: int | None = None) -> Moments:
    """Moments of all parts together, or of all but one of them."""
    return reduce(Moments.__add__, [m for k, m in enumerate(parts) if k != but and m.count])


def prior_strength(others: Sequence[tuple[Moments, int]], folds: Sequence[Moments], least: float) -> float:
    """The a of :func:`shrunk_covariance`, in images, under which every fold of the training images is likeliest.

    1/2 tr(C^-1 S) + 1/2 log det C, averaged over places and folds: C from the pictures of all other folds and the
    number of their images (``others``), S from the fold's images (``folds``) about the others' mean. Without ``others``
    a is the number of features.

    Test: tests/test_eq_targets.py
    """
    width = folds[0].mean.shape[1]

    def loss(strength: float) -> float:
        found = 0.0
        for (fitted, images), fold in zip(others, folds, strict=True):
            factor = torch.linalg.cholesky(shrunk_covariance(fitted, images, strength, least))
            fit = torch.cholesky_solve(fold.about(fitted.mean), factor).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
            found += (0.5 * fit + factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)).mean().item()
        return found

    return min((width * share for share in STRENGTHS), key=loss) if others else float(width)
