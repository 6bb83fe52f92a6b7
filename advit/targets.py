"""What the density describes: whitened principal components of the patch pixels, or whitened filter responses."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from einops import rearrange
from torch import Tensor, nn

from advit.filters import FEATURES, FilterBank
from advit.patches import patchify

LEAST_CHANGE = 0.01  # sd of a logarithmic feature: a change of one percent is never judged


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


class FilterTarget(nn.Module):
    """z_u = W_u (f_u - m_u): the filter features of each place u, white among defect-free images at that place.

    A patch has ``cells`` x ``cells`` places; a place's 23 features are those of :class:`advit.filters.FilterBank`. m_u
    and C_u are mean and covariance over training images, C_u shrunk towards the mean covariance of all places,

        C_u <- (n C_u + F C_pooled) / (n + F) + 0.01^2 I,    W_u^T W_u = C_u^-1

    with n pictures (copies moved and brightened as in training included) and F = 23: the posterior mean under an
    inverse Wishart prior worth F pictures. So |z_u|^2 is what the classical floor "per-position Gaussian of Gabor
    features" measures, and a mixture that has learnt nothing yet, one standard Gaussian at every place, starts there.

    Args:
        image_size: H. grid: patches along one side. cells: places along one side of a patch.

    Chosen: the paper does not say what its density describes. Test: tests/test_eq_targets.py
    """

    def __init__(self, *, image_size: int, grid: int, cells: int) -> None:
        super().__init__()
        places = (grid * cells) ** 2
        self.cells, self.bank = cells, FilterBank(image_size=image_size, grid=grid * cells)
        self.register_buffer("mean", torch.zeros(places, FEATURES))
        self.register_buffer("whitening", torch.zeros(places, FEATURES, FEATURES))

    def features(self, images: Tensor) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N cells^2, 23)``; the places of a patch follow each other."""
        order = "b d (gh i) (gw j) -> b (gh gw i j) d"
        return rearrange(self.bank(images), order, i=self.cells, j=self.cells)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N cells^2, 23)`` targets."""
        with torch.autocast(images.device.type, enabled=False):
            return torch.einsum("bud,ude->bue", self.features(images) - self.mean, self.whitening)

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Set m and W from batches of defect-free images, in float64, one pass (Welford's update)."""
        count, mean, total = 0, torch.zeros_like(self.mean).double(), torch.zeros_like(self.whitening).double()
        for images in batches:
            for f in self.features(images.to(self.bank.opponent.dtype)).double():
                count += 1
                delta = f - mean
                mean += delta / count
                total += delta[:, :, None] * (f - mean)[:, None, :]
        shrunk = (total + FEATURES * total.mean(dim=0) / count) / (count + FEATURES)
        covariance = shrunk + LEAST_CHANGE**2 * torch.eye(FEATURES, dtype=torch.float64, device=total.device)
        self.mean.copy_(mean)
        self.whitening.copy_(torch.linalg.cholesky(torch.linalg.inv(covariance)))
