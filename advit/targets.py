"""What the density describes: whitened principal components of the patch pixels, or whitened filter responses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from advit.filters import FEATURES, FilterBank
from advit.patches import patchify

LEAST_CHANGE = 0.01  # sd of a logarithmic feature: a change of one percent is never judged
STRENGTHS = (1 / 24, 1 / 6, 1 / 2, 1, 2, 4, 16, 64)  # that a prior may have, in images per feature
WINDOW = 0.4  # share of an image's side: what is nearer to a place than half of this says nothing about it
LONGEST = 6.0  # of a place's white features in the mean of a picture; of a normal place's length, sqrt(24), 1.2 times
RIDGE = 0.3  # of the mean variance of that mean, added to it: B is drawn towards 0
LEAST_REST = 0.05  # of a white feature's variance: nothing is said to be explained beyond that


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


def shrunk_covariance(moments: Moments, images: int, strength: float) -> Tensor:
    """C_u = (n C_u + a C_pooled) / (n + a) + 0.01^2 I of n images: the posterior mean if the pooled one is worth a."""
    own = moments.scatter / moments.count
    least = LEAST_CHANGE**2 * torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
    return (images * own + strength * own.mean(dim=0)) / (images + strength) + least


def whitening(moments: Moments, images: int, strength: float) -> Tensor:
    """W of every place, ``(places, D, D)``: W W^T is the inverse of the shrunk covariance."""
    return torch.linalg.cholesky(torch.linalg.inv(shrunk_covariance(moments, images, strength)))


def prior_strength(changed: Sequence[Moments], plain: Sequence[Moments]) -> float:
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
            factor = torch.linalg.cholesky(shrunk_covariance(fitted, own.count, strength))
            fit = torch.cholesky_solve(other.about(fitted.mean), factor).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
            total += (0.5 * fit + factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)).mean().item()
        return total

    return min((width * share for share in STRENGTHS), key=loss)


class FilterTarget(nn.Module):
    """z_u = V (W_u^T (f_u - m_u) - B c_u): filter features of each place u, white among defect-free images.

    A patch has ``cells`` x ``cells`` places; a place's 24 features are those of :class:`advit.filters.FilterBank`.

    - m_u and C_u are mean and covariance over training images at this place, C_u shrunk towards the mean covariance of
      all places (:func:`shrunk_covariance`, as strongly as suits held-out images), W_u W_u^T = C_u^-1. So |W^T(f-m)|^2
      is what the classical floor "per-position Gaussian of Gabor features" measures.
    - c_u is the mean of v = W^T (f - m) over all places of the image outside a window around u (0.4 of the image's
      side), each v shortened to LONGEST at most: the rest of the picture, in which a defect counts little. B predicts a
      place from it, one B for all places, and V makes what is left white. So a picture that is lighter, or more
      strongly textured, as a whole is normal, and a part of it that is so alone is not. Near places stay out: a
      defect would explain itself. B and V follow from images that the W in use has not seen (two halves).

    A mixture that has learnt nothing yet, one standard Gaussian at every place, is already this classical model.

    Args:
        image_size: H. grid: patches along one side. cells: places along one side of a patch.

    Chosen: the paper does not say what its density describes. Test: tests/test_eq_targets.py
    """

    def __init__(self, *, image_size: int, grid: int, cells: int) -> None:
        super().__init__()
        side = grid * cells
        self.cells, self.bank = cells, FilterBank(image_size=image_size, grid=side)
        self.window = 2 * round(WINDOW * side / 2) + 1
        self.register_buffer("mean", torch.zeros(side**2, FEATURES))
        self.register_buffer("whitening", torch.zeros(side**2, FEATURES, FEATURES))
        self.register_buffer("context", torch.zeros(FEATURES, FEATURES))
        self.register_buffer("rest", torch.eye(FEATURES))

    def features(self, images: Tensor) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N cells^2, 24)``; the places of a patch follow each other."""
        order = "b d (gh i) (gw j) -> b (gh gw i j) d"
        return rearrange(self.bank(images), order, i=self.cells, j=self.cells)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channel, H, H)`` images to ``(batch, N cells^2, 24)`` targets."""
        with torch.autocast(images.device.type, enabled=False):
            z = self.placed(images)
            return (z - self.surroundings(z) @ self.context) @ self.rest

    def placed(self, images: Tensor) -> Tensor:
        """W_u^T (f_u - m_u), ``(batch, N cells^2, 24)``: white at every place, the rest of the picture aside."""
        return torch.einsum("bud,ude->bue", self.features(images) - self.mean, self.whitening)

    def surroundings(self, z: Tensor) -> Tensor:
        """c_u of ``z = W^T (f - m)``, ``(batch, N cells^2, D)``; 0 if no place lies outside the window."""
        z = z * (LONGEST / z.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp_max(1)
        side = math.isqrt(z.shape[1])
        split = {"gh": side // self.cells, "gw": side // self.cells, "i": self.cells, "j": self.cells}
        grid = rearrange(z, "b (gh gw i j) d -> b d (gh i) (gw j)", **split)
        inside = self.windowed(grid)
        outside = side**2 - self.windowed(torch.ones_like(grid[:1, :1])).round()
        mean = (grid.sum(dim=(2, 3), keepdim=True) - inside) / outside.clamp_min(1) * (outside > 0)
        return rearrange(mean, "b d (gh i) (gw j) -> b (gh gw i j) d", i=self.cells, j=self.cells)

    def windowed(self, grid: Tensor) -> Tensor:
        """Sums over a window around every place of ``(batch, D, side, side)``."""
        return F.avg_pool2d(grid, self.window, stride=1, padding=self.window // 2, divisor_override=1)

    @torch.no_grad()
    def fit(self, groups: Iterable[Tensor], images: Iterable[Tensor] = ()) -> None:
        """Set m and W from defect-free images, then B and V, in float64.

        Args:
            groups: one batch per image: the image itself, then changed copies of it, all of which count as one.
            images: the same images again, one per batch. Without them, or with fewer than four, B = 0 and V = I.
        """
        halves = [[Moments(*self.mean.shape, self.mean.device) for _ in range(2)] for _ in range(2)]
        for i, pictures in enumerate(groups):
            for j, f in enumerate(self.features(pictures.to(self.bank.opponent.dtype)).double()):
                halves[i % 2][0].add(f)
                if j == 0:
                    halves[i % 2][1].add(f)
        changed, plain = zip(*halves, strict=True)
        strength = prior_strength(changed, plain)
        if min(m.count for m in plain) >= 2:
            seen = [(changed[k].mean, whitening(changed[k], plain[k].count, strength)) for k in (1, 0)]
            self._relate(images, seen)
        every = changed[0] + changed[1]
        self.mean.copy_(every.mean)
        self.whitening.copy_(whitening(every, plain[0].count + plain[1].count, strength))

    def _relate(self, images: Iterable[Tensor], seen: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Set B and V by least squares over all places of images, each under mean and W of the half it is not in.

        B = (E[c c^T] + 0.3 tr E[c c^T] / D I)^-1 E[c v^T]; V V^T is the inverse of the covariance of v - B c, its
        eigenvalues at least LEAST_REST.
        """
        eye = torch.eye(FEATURES, dtype=torch.float64, device=self.mean.device)
        cc, cz, zz, count = 0 * eye, 0 * eye, 0 * eye, 0
        for i, image in enumerate(images):
            mean, whiten = seen[i % 2]
            f = self.features(image.to(self.bank.opponent.dtype)).double()
            z = torch.einsum("bud,ude->bue", f - mean, whiten)
            c, z = self.surroundings(z).flatten(0, 1), z.flatten(0, 1)
            cc, cz, zz, count = cc + c.T @ c, cz + c.T @ z, zz + z.T @ z, count + len(z)
        if not count:
            return
        cc, cz, zz = cc / count, cz / count, zz / count
        ridge = RIDGE * cc.diagonal().mean().clamp_min(1e-12)
        context = torch.linalg.solve(cc + ridge * eye, cz)
        values, vectors = torch.linalg.eigh(zz - cz.T @ context - context.T @ cz + context.T @ cc @ context)
        self.context.copy_(context)
        self.rest.copy_(vectors @ torch.diag(values.clamp_min(LEAST_REST).rsqrt()) @ vectors.T)
