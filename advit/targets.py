"""What the density describes: whitened principal components of the patch pixels, or whitened filter responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from advit.filters import FilterBank, feature_count, window_rows
from advit.moments import Moments, prior_strength, whitening
from advit.patches import patchify

NEAR = 1.0  # places: sd of the Gaussian around a place that makes its neighbourhood
RASTER, PLACES = "b d (gh i) (gw j)", "b (gh gw i j) d"  # of values per place: as they lie, and patch by patch
LEAST_NEAR = 0.01  # of a white feature's variance: its mean over a neighbourhood is taken to vary that much at least


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
        self.patch, self.width = patch, target_dim
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
    """z_u = (w_u, V s_u): filter features of each place u and of its neighbourhood, white among defect-free images.

    A patch has ``cells`` x ``cells`` places; a place's D features f_u are those of :class:`advit.filters.FilterBank`.

    - w_u = W_u^T (f_u - m_u). m_u and C_u are mean and covariance over training images at this place, C_u shrunk
      towards the mean covariance of all places (:func:`advit.moments.shrunk_covariance`, as strongly as suits held-out
      images), W_u W_u^T = C_u^-1. So |w_u|^2 is what the classical floor "per-position Gaussian of Gabor features"
      measures.
    - s_u is the mean of w under a Gaussian of sd NEAR places around u. V, one for all places, makes it white. A faint
      change that holds over a neighbourhood stands out from the mean, whose chance variation is smaller, a small strong
      one from the place itself. V follows from images that the W in use has not seen (two halves).

    A mixture that has learnt nothing yet, one standard Gaussian at every place, is already this classical model, at two
    scales.

    Args:
        image_size: H. grid: patches along one side. cells: places along one side of a patch. levels: of the filters.
        least_change: sd of a (logarithmic) feature that is added to what training images show.

    ``own`` is D, ``width`` that of the whole target, 2 D.

    Chosen: the paper does not say what its density describes. Test: tests/test_eq_targets.py
    """

    def __init__(self, *, image_size: int, grid: int, cells: int, levels: int, least_change: float) -> None:
        super().__init__()
        self.least_change = least_change
        side, self.own = grid * cells, feature_count(levels)
        self.cells, self.width = cells, 2 * self.own
        self.bank = FilterBank(image_size=image_size, grid=side, levels=levels)
        self.register_buffer("mean", torch.zeros(side**2, self.own))
        self.register_buffer("whitening", torch.zeros(side**2, self.own, self.own))
        self.register_buffer("near", torch.eye(self.own))
        self.register_buffer("window", window_rows(side, side, NEAR).real.float(), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N cells^2, D)``; the places of a patch follow each other."""
        return self._places(self.bank(images))

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N cells^2, 2 D)`` targets: w, then V s."""
        with torch.autocast(images.device.type, enabled=False):
            w = torch.einsum("bud,ude->bue", self.features(images) - self.mean, self.whitening)
            return torch.cat([w, self.neighbourhood(w) @ self.near], dim=-1)

    def neighbourhood(self, w: Tensor) -> Tensor:
        """s_u of ``w (batch, N cells^2, D)``: Gaussian means over the places around each, cut at the border."""
        grid = len(self.window) // self.cells
        sizes = {"gh": grid, "gw": grid, "i": self.cells, "j": self.cells}
        return self._places(self.window @ rearrange(w, f"{PLACES} -> {RASTER}", **sizes) @ self.window.T)

    def _places(self, raster: Tensor) -> Tensor:
        return rearrange(raster, f"{RASTER} -> {PLACES}", i=self.cells, j=self.cells)

    @torch.no_grad()
    def fit(self, groups: Iterable[Tensor], images: Iterable[Tensor] = ()) -> None:
        """Set m and W from defect-free images, then V, in float64. Features of all images would take too much memory.

        Args:
            groups: one batch per image: the image itself, then changed copies of it, all of which count as one.
            images: the same images again, one per batch. Without them, or with fewer than four, V = I.
        """
        halves = [[Moments(*self.mean.shape, self.mean.device) for _ in range(2)] for _ in range(2)]
        for i, pictures in enumerate(groups):
            for j, f in enumerate(self.features(pictures.to(self.bank.opponent.dtype)).double()):
                halves[i % 2][0].add(f)
                if j == 0:
                    halves[i % 2][1].add(f)
        changed, plain = zip(*halves, strict=True)
        strength = prior_strength(changed, plain, self.least_change)
        if min(m.count for m in plain) >= 2:
            seen = [
                (changed[k].mean, whitening(changed[k], plain[k].count, strength, self.least_change)) for k in (1, 0)
            ]
            self._fit_near(images, seen)
        every = changed[0] + changed[1]
        self.mean.copy_(every.mean)
        count = plain[0].count + plain[1].count
        self.whitening.copy_(whitening(every, count, strength, self.least_change))

    def _fit_near(self, images: Iterable[Tensor], seen: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Set V: V V^T is the inverse of E[s s^T] over all places of images, its eigenvalues at least LEAST_NEAR.

        Each image is taken under mean and W of the half it is not in.
        """
        total, count = torch.zeros(self.own, self.own, dtype=torch.float64, device=self.mean.device), 0
        for i, image in enumerate(images):
            mean, whiten = seen[i % 2]
            f = self.features(image.to(self.bank.opponent.dtype)).double()
            w = torch.einsum("bud,ude->bue", f - mean, whiten)
            s = self.neighbourhood(w.to(self.window.dtype)).double().flatten(0, 1)
            total, count = total + s.T @ s, count + len(s)
        if count:
            values, vectors = torch.linalg.eigh(total / count)
            self.near.copy_(vectors @ torch.diag(values.clamp_min(LEAST_NEAR).rsqrt()) @ vectors.T)
