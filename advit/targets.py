"""What the density describes: whitened principal components of the patch pixels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from advit.patches import patchify


class PixelTarget(nn.Module):
    """z_i = W (x_i - m): the first D principal components of the patch pixels, each scaled to variance 1.

    m and W come from patches of defect-free training images (:meth:`fit`); they are buffers and travel with
    the checkpoint. A fixed target cannot collapse, as features that are trained to be predictable can.

    Args:
        patch: side of a patch in pixels. channels: of the image. target_dim: D.

    Chosen: the paper does not say what its density describes. Test: tests/test_eq_targets.py
    """

    def __init__(self, *, patch: int, channels: int, target_dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", torch.zeros(patch * patch * channels))
        self.register_buffer("whitening", torch.zeros(patch * patch * channels, target_dim))

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N, D)`` targets."""
        with torch.autocast(images.device.type, enabled=False):  # W is large where the variance is small
            return (patchify(images, self.patch) - self.mean) @ self.whitening

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set m and W from batches of defect-free images ``(n, channel, H, H)`` in [0, 1], in float64.

        The eigenvalues are floored at (1/255)^2 / 12, the variance of rounding to 8 bit, so that directions
        without any signal (a grey image has two per pixel) are not blown up. The sign of every component is
        fixed, so that the same images give the same W on every machine up to rounding.
        """
        count, total, products = 0, 0.0, 0.0
        for images in batches:
            x = patchify(images.double(), self.patch).flatten(0, 1)
            count, total, products = count + len(x), total + x.sum(dim=0), products + x.T @ x
        mean = total / count
        values, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
        values, vectors = values.flip(0), vectors.flip(1)
        kept = self.whitening.shape[1]
        values, vectors = values[:kept].clamp_min((1 / 255) ** 2 / 12), vectors[:, :kept]
        largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
        self.mean.copy_(mean)
        self.whitening.copy_(vectors * largest.sign() / values.sqrt())
