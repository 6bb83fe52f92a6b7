"""A fixed bank of filters: what is seen at a place of an image, in 24 numbers.

Gabor filters tell texture and edges (4 wavelengths x 4 directions), Gaussian means tell brightness and colour. Nothing
is learned here, so the features cannot collapse, and a place that looks like another has the same features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 4  # of the pyramid: the image, and three times halved
WAVELENGTH = 4.0  # px of a level: 4, 8, 16 and 32 px of the image
COLOURED = 1  # level at which the texture of the colours is looked at, too
ORIENTATIONS = 4
BRIGHTNESS_SPREADS = (4.0, 16.0)  # px: sd of the means of brightness
COLOUR_SPREADS = (4.0, 16.0)  # px: sd of the means of colour
COLOUR_UNIT = 60.0  # grey levels: colour features then vary about as much as logarithmic ones
FEATURES = LEVELS * ORIENTATIONS + 2 + len(BRIGHTNESS_SPREADS) + 2 * len(COLOUR_SPREADS)
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

    Of brightness, for wavelengths of 4, 8, 16 and 32 px and each direction, log(1 + mean modulus of the Gabor response
    in the place, in grey levels), the envelope's sd 0.56 wavelengths (a bandwidth of one octave); the same of two
    opponent colours at 8 px, averaged over the directions; log(1 + brightness) and both colours, under Gaussians of
    sd 4 and 16 px. Pixels are those of the image as it is given, whatever its size.

    Longer wavelengths are 4 px on the image halved (means of 2 x 2 pixels), halved again, and again. A filter's
    envelope is round, so it is a product of two one-dimensional ones, A X B^T with X the image. Responses are taken at
    about every wavelength (1.8 sd of the envelope) and averaged over the place, so that no thin line falls in between.

    Args:
        image_size: H. grid: G.

    Chosen: the paper does not say what its density describes. Test: tests/test_eq_filters.py
    """

    def __init__(self, *, image_size: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        angles = [math.pi * o / ORIENTATIONS for o in range(ORIENTATIONS)]
        for k in range(LEVELS):
            size, count = max(1, image_size >> k), grid * max(1, round((image_size >> k) / grid / WAVELENGTH))
            for name, part in (("rows", math.sin), ("columns", math.cos)):
                wave = [window_rows(size, count, 0.56 * WAVELENGTH, part(a) / WAVELENGTH) for a in angles]
                both = torch.cat([torch.stack(wave).real, torch.stack(wave).imag], dim=1).float()
                self.register_buffer(f"{name}_{k}", both, persistent=False)
        for spread in {*BRIGHTNESS_SPREADS, *COLOUR_SPREADS}:
            window = window_rows(image_size, grid, spread).real.float()
            self.register_buffer(f"mean_{spread:g}", window, persistent=False)
        self.register_buffer("opponent", 255 * torch.tensor(OPPONENT), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, 3, H, H)`` images in [0, 1] to ``(batch, 24, G, G)``."""
        with torch.autocast(images.device.type, enabled=False):
            opponent = torch.einsum("oc,bchw->bohw", self.opponent, images)
            grey, colours = opponent[:, :1], opponent[:, 1:]
            parts = [self._texture(grey, k).log1p() for k in range(LEVELS)]
            parts += [self._texture(colours[:, [c]], COLOURED).mean(dim=1, keepdim=True).log1p() for c in range(2)]
            parts += [self._mean(grey, spread).clamp_min(0).log1p() for spread in BRIGHTNESS_SPREADS]
            parts += [self._mean(colours, spread) / COLOUR_UNIT for spread in COLOUR_SPREADS]
            return torch.cat(parts, dim=1)

    def _mean(self, channels: Tensor, spread: float) -> Tensor:
        """Means under a Gaussian, ``(batch, channel, G, G)``."""
        window = getattr(self, f"mean_{spread:g}")
        return window @ channels @ window.T

    def _texture(self, channel: Tensor, k: int) -> Tensor:
        """Mean modulus of one level's responses in every direction, ``(batch, 4, G, G)``."""
        channel = F.adaptive_avg_pool2d(channel, getattr(self, f"rows_{k}").shape[-1])
        rows, columns = getattr(self, f"rows_{k}"), getattr(self, f"columns_{k}")
        half = (rows.flatten(0, 1) @ channel[:, 0]).unflatten(1, rows.shape[:2]).transpose(0, 1)  # direction first
        full = torch.matmul(half.flatten(1, 2), columns.transpose(1, 2)).unflatten(1, half.shape[1:3])
        (rr, ri), (ir, ii) = (part.chunk(2, dim=3) for part in full.chunk(2, dim=2))  # row wave, then column wave
        modulus = torch.sqrt((rr - ii).square() + (ri + ir).square())
        return F.adaptive_avg_pool2d(modulus, self.grid).transpose(0, 1)
