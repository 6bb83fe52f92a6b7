"""A fixed bank of filters: what is seen at a place of an image, in fifteen numbers.

Gabor filters tell texture and edges (3 wavelengths x 4 directions), Gaussian means tell brightness and colour. Nothing
is learned here, so the features cannot collapse, and a place that looks like another has the same features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WAVELENGTHS = (4.0, 8.0, 16.0)  # px
ORIENTATIONS = 4
SPREAD = 8.0  # px: sd of the means of brightness and colour
COLOUR_UNIT = 60.0  # grey levels: colour features then vary about as much as logarithmic ones
FEATURES = len(WAVELENGTHS) * ORIENTATIONS + 3
OPPONENT = ((0.299, 0.587, 0.114), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))  # brightness, red-green, yellow-blue


def window_rows(size: int, count: int, spread: float, wave: float = 0.0) -> Tensor:
    """Windowed waves at ``count`` places along ``size`` pixels: complex ``(count, size)``.

    Row i: exp(-(x - c_i)^2 / (2 spread^2)) exp(2 pi i (x - c_i) wave) over the sum of the envelope, c_i the middle of
    the i-th of ``count`` equal parts. At the border the envelope is cut and normalised again.
    """
    centre = (torch.arange(count, dtype=torch.float64) + 0.5) * size / count - 0.5
    away = torch.arange(size, dtype=torch.float64) - centre[:, None]
    envelope = torch.exp(-0.5 * (away / spread).square())
    return envelope / envelope.sum(dim=1, keepdim=True) * torch.exp(2j * math.pi * wave * away)


class FilterBank(nn.Module):
    """Features of an image on a grid of G x G places.

    For each wavelength and direction log(1 + mean modulus of the Gabor response in the place, in grey levels), the
    envelope's sd 0.56 wavelengths (a bandwidth of one octave); then log(1 + brightness) and two opponent colours under
    a Gaussian of sd 8 px. Wavelengths are pixels of the image as it is given, whatever its size.

    A filter's envelope is round, so it is a product of two one-dimensional ones, A X B^T with X the image. Responses
    are taken at about every wavelength (1.8 sd of the envelope) and averaged over the place, so that no thin line falls
    in between.

    Args:
        image_size: H. grid: G.

    Chosen: the paper does not say what its density describes. Test: tests/test_eq_filters.py
    """

    def __init__(self, *, image_size: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        for k, wavelength in enumerate(WAVELENGTHS):
            count = grid * max(1, round(image_size / grid / wavelength))
            angles = [math.pi * o / ORIENTATIONS for o in range(ORIENTATIONS)]
            spread = 0.56 * wavelength
            rows = torch.stack([window_rows(image_size, count, spread, math.sin(a) / wavelength) for a in angles])
            columns = torch.stack([window_rows(image_size, count, spread, math.cos(a) / wavelength) for a in angles])
            for name, waves in (("rows", rows), ("columns", columns)):
                both = torch.cat([waves.real, waves.imag], dim=1).float()
                self.register_buffer(f"{name}_{k}", both, persistent=False)
        self.register_buffer("mean", window_rows(image_size, grid, SPREAD).real.float(), persistent=False)
        self.register_buffer("opponent", 255 * torch.tensor(OPPONENT), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, 3, H, H)`` images in [0, 1] to ``(batch, 15, G, G)``."""
        with torch.autocast(images.device.type, enabled=False):
            opponent = torch.einsum("oc,bchw->bohw", self.opponent, images)
            parts = [self._texture(opponent[:, :1], k) for k in range(len(WAVELENGTHS))]
            means = self.mean @ opponent @ self.mean.T
            parts += [torch.log1p(means[:, :1].clamp_min(0)), means[:, 1:] / COLOUR_UNIT]
            return torch.cat(parts, dim=1)

    def _texture(self, grey: Tensor, k: int) -> Tensor:
        """log(1 + mean modulus) of one wavelength in every direction, ``(batch, 4, G, G)``."""
        rows, columns = getattr(self, f"rows_{k}"), getattr(self, f"columns_{k}")
        real, imaginary = ((rows @ grey) @ columns.transpose(1, 2)).chunk(2, dim=2)  # of the row waves
        (rr, ri), (ir, ii) = real.chunk(2, dim=3), imaginary.chunk(2, dim=3)
        modulus = torch.sqrt((rr - ii).square() + (ri + ir).square())
        return torch.log1p(F.adaptive_avg_pool2d(modulus, self.grid))
