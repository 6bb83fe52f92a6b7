"""What the density describes: whitened principal components of the patch pixels, or whitened filter responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from advit.factors import IMAGES_PER_FACTOR, LIMIT, KeptImages, image_factors, without_factors
from advit.filters import FilterBank, feature_count, window_rows
from advit.moments import Moments, prior_strength, total, whitening
from advit.patches import patchify

FOLDS = 4  # parts of the training images; each is judged by the statistics of the others
LEAST_IMAGES = 4  # fewer have no statistics of others
NEAR = (1.0, 2.0)  # places: sd of the Gaussians around a place that make its neighbourhoods
RASTER, PLACES = "b d (gh i) (gw j)", "b (gh gw i j) d"  # of values per place: as they lie, and patch by patch
LEAST_NEAR = 0.003  # of a white feature's variance: its mean over a neighbourhood is taken to vary that much at least


class Unseen(NamedTuple):
    """What lets targets of training images vary as those of new ones do (:class:`FilterTarget`).

    ``folds (batch,)``, on the CPU: their indices modulo FOLDS, in the order that they were fitted in. ``noise (batch,
    places, D)``: a draw of N(0, 1), added to the features in units of the least change; None for none.
    """

    folds: Tensor
    noise: Tensor | None = None


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

    def forward(self, images: Tensor, unseen: Unseen | None = None) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N, D)`` targets, the same whatever ``unseen``."""
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
    """z_u = (r_u, V_1 s_u1, V_2 s_u2): filter features of each place u and of its neighbourhoods, white among
    defect-free images.

    A patch has ``cells`` x ``cells`` places; a place's D features f_u are those of :class:`advit.filters.FilterBank`.

    - w_u = W_u^T (f_u - m_u). m_u and C_u are mean and covariance over training images at this place, C_u shrunk
      towards the mean covariance of all places (:func:`advit.moments.shrunk_covariance`, as strongly as suits held-out
      images), W_u W_u^T = C_u^-1. So |w_u|^2 is what the classical floor "per-position Gaussian of Gabor features"
      measures.
    - r_u = R (w_u - what the whole image explains of it, :func:`advit.factors.without_factors`). R, one for all places,
      makes it white again.
    - s_uj is the mean of r under a Gaussian of sd NEAR[j] places around u, every number taken as at most LIMIT sd. A
      faint change that holds over a neighbourhood stands out from the mean, whose chance variation is smaller, a small
      strong one from the place itself. V_j, one for all places, makes it white.

    Training images lie closer to their own mean, and more of them is explained by their own factors, than of new ones.
    So the training images are dealt into FOLDS folds. R and V follow from images under m, W and factors of the folds
    that they are not in, and ``unseen`` gives a training image's target so: then the mixture learns how new images
    vary, and a threshold follows from all of them. In training the least change is added as noise, or the mixture would
    learn to judge what C_u and R leave out.

    A mixture that has learnt nothing yet, one standard Gaussian at every place, is already this classical model, at
    three scales.

    Args:
        image_size: H. grid: patches along one side. cells: places along one side of a patch. levels: of the filters.
        least_change: sd of a (logarithmic) feature that is added to what training images show.
        factors: of the whole image, at most; no more than one for IMAGES_PER_FACTOR training images.

    ``own`` is D, ``width`` that of the whole target, 3 D.

    Chosen: the paper does not say what its density describes. Test: tests/test_eq_targets.py
    """

    def __init__(
        self, *, image_size: int, grid: int, cells: int, levels: int, least_change: float, factors: int
    ) -> None:
        super().__init__()
        self.least_change = least_change
        side, self.own = grid * cells, feature_count(levels)
        self.cells, self.width = cells, (1 + len(NEAR)) * self.own
        self.bank = FilterBank(image_size=image_size, grid=side, levels=levels)
        self.register_buffer("mean", torch.zeros(side**2, self.own))
        self.register_buffer("whitening", torch.zeros(side**2, self.own, self.own))
        self.register_buffer("factors", torch.zeros(factors, side**2 * self.own))
        for name in ("mean", "whitening", "factors"):  # of all images but those of a fold
            self.register_buffer(f"other_{name}", torch.stack([getattr(self, name)] * FOLDS), persistent=False)
        self.register_buffer("again", torch.eye(self.own))
        self.register_buffer("near", torch.eye(self.own).repeat(len(NEAR), 1, 1))
        self.crossed = False  # whether it holds statistics of all images but a fold's: not if read from a checkpoint
        windows = torch.stack([window_rows(side, side, spread).real.float() for spread in NEAR])
        self.register_buffer("windows", windows, persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N cells^2, D)``; the places of a patch follow each other."""
        return self._places(self.bank(images))

    def forward(self, images: Tensor, unseen: Unseen | None = None) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N cells^2, 3 D)`` targets: r, then V_1 s_1 and V_2 s_2.

        ``unseen``: of training images; each is then taken under the statistics of the folds that it is not in.
        """
        with torch.autocast(images.device.type, enabled=False):
            r = self._residual(self.features(images), unseen) @ self.again
            return torch.cat([r, *(s @ v for s, v in zip(self.neighbourhoods(r), self.near, strict=True))], dim=-1)

    def _residual(self, f: Tensor, unseen: Unseen | None) -> Tensor:
        """r under R = I of features ``(batch, places, D)``."""
        if unseen is None:
            return without_factors(whitened(f, self.mean, self.whitening), self.factors)
        if unseen.noise is not None:
            f = f + self.least_change * unseen.noise
        r = torch.empty_like(f)
        for k, rows in enumerate((unseen.folds == k).nonzero()[:, 0].to(f.device) for k in range(FOLDS)):
            w = whitened(f[rows], self.other_mean[k], self.other_whitening[k])
            r[rows] = without_factors(w, self.other_factors[k])
        return r

    def neighbourhoods(self, r: Tensor) -> list[Tensor]:
        """Every s_u of ``r (batch, N cells^2, D)``: Gaussian means over the places around each, cut at the border."""
        grid = self.windows.shape[-1] // self.cells
        sizes = {"gh": grid, "gw": grid, "i": self.cells, "j": self.cells}
        raster = rearrange(r.clamp(-LIMIT, LIMIT), f"{PLACES} -> {RASTER}", **sizes)
        return [self._places(window @ raster @ window.T) for window in self.windows]

    def _places(self, raster: Tensor) -> Tensor:
        return rearrange(raster, f"{RASTER} -> {PLACES}", i=self.cells, j=self.cells)

    @torch.no_grad()
    def fit(self, groups: Iterable[Tensor]) -> None:
        """Set m and W from defect-free images, in float64, then factors, R and V, from products summed in float64.

        With fewer than LEAST_IMAGES images there are no factors, and R = V = I. Of more than MOST_KEPT images, factors,
        R and V follow from a part; features of all would take too much memory.

        Args:
            groups: one batch per image: the image itself, then changed copies of it, all of which count as one.
        """
        folds = [[Moments(*self.mean.shape, self.mean.device) for _ in range(2)] for _ in range(FOLDS)]
        kept = KeptImages(FOLDS)
        for i, pictures in enumerate(groups):
            found = self.features(pictures.to(self.bank.opponent.dtype))
            kept.offer(i, found[:2])
            for j, f in enumerate(found.double()):
                folds[i % FOLDS][0].add(f)
                if j == 0:
                    folds[i % FOLDS][1].add(f)
        changed, plain = zip(*folds, strict=True)
        every, count = total(changed), sum(m.count for m in plain)
        others = [(total(changed, but=k), count - plain[k].count) for k in range(FOLDS) if count >= LEAST_IMAGES]
        strength = prior_strength(others, plain, self.least_change)
        self.mean.copy_(every.mean)
        self.whitening.copy_(whitening(every, count, strength, self.least_change))
        self.other_mean.copy_(self.mean)
        self.other_whitening.copy_(self.whitening)
        for k, (moments, images) in enumerate(others):
            self.other_mean[k] = moments.mean
            self.other_whitening[k] = whitening(moments, images, strength, self.least_change)
        self.crossed = bool(others)
        if others:
            self._fit_rest([kept.of_fold(k) for k in range(FOLDS)])

    def _fit_rest(self, kept: Sequence[Tensor]) -> None:
        """Set all factors, R and V from features ``(images, pictures, places, D)`` of every fold.

        R = (E[r r^T] + l^2 E[W^T W])^(-1/2), r under R = I of images and their copies, l the least change; V_j V_j is
        the inverse of E[s_j s_j^T], of images alone, its eigenvalues at least LEAST_NEAR.
        """
        most, pictures = len(self.factors), [part.flatten(0, 1) for part in kept]
        count = min(most, sum(map(len, kept)) // IMAGES_PER_FACTOR)
        self.factors.copy_(image_factors(whitened(torch.cat(pictures), self.mean, self.whitening), count, most))
        residuals = []
        for k, own in enumerate(pictures):
            rest = torch.cat(pictures[:k] + pictures[k + 1 :])
            w = whitened(rest, self.other_mean[k], self.other_whitening[k])
            self.other_factors[k] = image_factors(w, count, most)
            folds = torch.full((len(own),), k)
            residuals.append(self._residual(own, Unseen(folds)).view_as(kept[k]))
        least = self.least_change**2 * torch.einsum("uda,udb->ab", *[self.whitening.double()] * 2) / len(self.whitening)
        self.again.copy_(inverse_root(mean_square(residuals) + least, 0.0))
        found = [self.neighbourhoods(r[:, 0] @ self.again) for r in residuals]
        for v, means in zip(self.near, zip(*found, strict=True), strict=True):
            v.copy_(inverse_root(mean_square(means), LEAST_NEAR))


def whitened(f: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """w_u = W_u^T (f_u - m_u) of features ``(batch, places, D)``."""
    return torch.einsum("bud,ude->bue", f - mean, whitening)


def mean_square(parts: Iterable[Tensor]) -> Tensor:
    """E[x x^T] of all vectors ``(..., D)`` in all parts, in float64."""
    rows = [x.flatten(0, -2) for x in parts]
    products = sum(part.double().T @ part.double() for x in rows for part in x.split(65536))
    return products / sum(len(x) for x in rows)


def inverse_root(covariance: Tensor, least: float) -> Tensor:
    """C^(-1/2), the symmetric one, of a covariance whose eigenvalues are taken to be at least ``least``."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors @ torch.diag(values.clamp_min(least).rsqrt()) @ vectors.T
