"""What the places of an image have in common: factors of whole images, taken off every place.

A defect-free image differs from another everywhere at once: it is lit otherwise, cut from another sheet, turned a
little. What follows so from the whole image is no defect, and hides faint ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 3.0  # sd: no number counts more where several are averaged or projected, so that a defect stays where it is
IMAGES_PER_FACTOR = 4
MOST_KEPT = 512  # images whose features are held in memory, 160 KiB each at 32 x 32 places


def image_factors(w: Tensor, count: int, most: int) -> Tensor:
    """The first ``count`` principal axes of ``w (pictures, places, D)``, unit rows: ``(most, places D)``, then zeros.

    The eigenvectors of w w^T between pictures, in float64: there are fewer pictures than numbers in one.
    """
    rows = w.flatten(1)
    axes = rows.new_zeros(most, rows.shape[1])
    if not count:
        return axes
    products = torch.zeros(len(w), len(w), dtype=torch.float64, device=w.device)
    for part in rows.split(4096, dim=1):
        products += part.double() @ part.double().T
    values, vectors = torch.linalg.eigh(products)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    real = values > 1e-9 * values[0].clamp_min(1e-12)  # pictures that are alike have fewer axes
    scale = torch.where(real, values.clamp_min(1e-30).rsqrt(), torch.zeros_like(values))
    axes[: len(values)] = (vectors * scale).T.to(rows.dtype) @ rows
    return axes


def without_factors(w: Tensor, factors: Tensor) -> Tensor:
    """w - U^T U clip(w): ``w (batch, places, D)`` less what its whole image explains; U the rows of ``factors``.

    The projection takes every number as at most LIMIT sd (Huber's bound), so that a strong defect does not draw the
    image towards itself.

    Test: tests/test_eq_factors.py
    """
    flat = w.flatten(1)
    return (flat - flat.clamp(-LIMIT, LIMIT) @ factors.T @ factors).view_as(w)


class KeptImages:
    """Features of up to MOST_KEPT images and a changed copy of each, evenly from all, with the fold each belongs to."""

    def __init__(self, folds: int) -> None:
        self.features: list[tuple[int, Tensor]] = []
        self.folds, self.step = folds, 1

    def offer(self, index: int, features: Tensor) -> None:
        """Keep ``features (1 or 2, places, D)`` of the image ``index``, or not: every step-th group, one of a fold."""
        if index // self.folds % self.step:
            return
        self.features.append((index, features))
        if len(self.features) > MOST_KEPT:
            self.step *= 2
            self.features = [(i, f) for i, f in self.features if i // self.folds % self.step == 0]

    def of_fold(self, fold: int) -> Tensor:
        """``(images, pictures, places, D)`` of the images of one fold."""
        return torch.stack([f for i, f in self.features if i % self.folds == fold])
