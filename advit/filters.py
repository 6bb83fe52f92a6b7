"""A fixed bank of filters: what is seen at a place of an image, in 20 or 24 numbers.

Gabor filters tell texture and edges (3 or 4 wavelengths x 4 directions), Gaussian means tell brightness and colour.
Nothing is learned here, so the features cannot collapse, and a place that looks like another has the same features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

WAVELENGTH = 4.0  # px of a level: 4, 8, 16, ... px of the image
COLOURED = 1  # level at which the texture of the colours is looked at, too
ORIENTATIONS = 4
SPREADS = (4.0, 16.0)  # px: sd of the means of brightness and colour
COLOUR_UNIT = 60.0  # grey levels: colour features then vary about as much as logarithmic ones
REACH = 5.0  # sd of an envelope, where it is 4e-6 of its middle: what lies farther out is left out
BLOCK = 8  # places that are computed together
OPPONENT = ((0.299, 0.587, 0.114), (0.5, -0.5, 0.0), (0.25, 0.25, -0.5))  # brightness, red-green, yellow-blue


def feature_count(levels: int) -> int:
    """Numbers that :class:`FilterBank` gives per place."""
    return levels * ORIENTATIONS + 2 + 3 * len(SPREADS)


def window_rows(size: int, count: int, spread: float, wave: float = 0.0) -> Tensor:
    """Windowed waves at ``count`` places along ``size`` pixels: complex ``(count, size)``.

    Row i: exp(-(x - c_i)^2 / (2 spread^2)) exp(2 pi i (x - c_i) wave) over the sum of the envelope, c_i the middle of
    the i-th of ``count`` equal parts. Beyond REACH spreads the envelope is 0 (numbers too small for float32 would make
    products slow). At the border it is cut and normalised again.
    """
    centre = (torch.arange(count, dtype=torch.float64) + 0.5) * size / count - 0.5
    away = torch.arange(size, dtype=torch.float64) - centre[:, None]
    envelope = torch.exp(-0.5 * (away / spread).square()) * (away.abs() <= REACH * spread)
    return envelope / envelope.sum(dim=1, keepdim=True) * torch.exp(2j * math.pi * wave * away)


class Bands(nn.Module):
    """Windowed waves along one axis of ``size`` pixels, as products with the pixels that a window reaches.

    The rows of :func:`window_rows` for all ``waves``, in blocks of neighbouring places: a block takes only the pixels
    that its windows reach. Fewer multiplications than with whole rows, but hardly less time (``make bench``).

    Test: tests/test_eq_filters.py
    """

    def __init__(self, *, size: int, count: int, spread: float, waves: Sequence[float]) -> None:
        super().__init__()
        self.parts = [1 if wave == 0 else 2 for wave in waves]  # without a wave a row is real
        block = max(b for b in range(1, min(count, BLOCK) + 1) if count % b == 0)
        width = min(size, math.ceil(block * size / count + 2 * REACH * spread) + 1)
        middle = (torch.arange(count // block) + 0.5) * block * size / count
        start = (middle - width / 2).round().long().clamp(0, size - width)
        pixels = start[:, None] + torch.arange(width)
        rows = [window_rows(size, count, spread, wave) for wave in waves]
        rows = torch.cat([torch.stack([r.real, r.imag][:n]) for r, n in zip(rows, self.parts, strict=True)]).float()
        rows = rows.unflatten(1, (-1, block)).transpose(0, 1)  # block, part, place in it, pixel
        band = rows.gather(-1, pixels[:, None, None].expand(*rows.shape[:3], -1))
        self.register_buffer("pixels", pixels, persistent=False)
        self.register_buffer("band", band.flatten(1, 2), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """``(batch, size, width)`` to the responses at each wave, ``(batch, parts, count, width)``: real, imaginary."""
        found = self.band @ x[:, self.pixels]
        parts = rearrange(found, "b block (part place) w -> b part (block place) w", part=sum(self.parts))
        return parts.split(self.parts, dim=1)


class Gabor(nn.Module):
    """Modulus of Gabor responses in four directions: 0, 45, 90 and 135 degrees from the direction of the columns.

    A filter's envelope is round, so it is a product of two one-dimensional ones, and three waves along either axis, of
    frequency 0, f / sqrt 2 and f, make all four: 45 and 135 degrees differ in the sign of one of them only.

    Args:
        size: of the square image. count: places along either axis. wavelength: 1 / f, in pixels.

    Test: tests/test_eq_filters.py
    """

    def __init__(self, *, size: int, count: int, wavelength: float) -> None:
        super().__init__()
        waves = [0.0, math.sqrt(0.5) / wavelength, 1 / wavelength]
        self.bands = Bands(size=size, count=count, spread=0.56 * wavelength, waves=waves)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, size, size)`` to ``(batch, 4, count, count)``."""
        batch = len(x)

        def along_columns(rows: Tensor, wave: int) -> Tensor:
            """Responses ``(batch, row part, column part, count, count)`` at one wave of the columns."""
            found = self.bands(rows.flatten(0, 1).transpose(1, 2))[wave].transpose(2, 3)
            return found.unflatten(0, (batch, -1))

        flat, slanted, steep = self.bands(x)
        level = along_columns(flat, 2)[:, 0]
        upright = along_columns(steep, 0)[:, :, 0]
        (rr, ri), (ir, ii) = (part.unbind(1) for part in along_columns(slanted, 1).unbind(1))
        down, up = (torch.stack([rr - sign * ii, ri * sign + ir], dim=1) for sign in (1, -1))
        return torch.stack([z.square().sum(dim=1).sqrt() for z in (level, down, upright, up)], dim=1)


class FilterBank(nn.Module):
    """Features of an image on a grid of G x G places.

    Of brightness, for wavelengths of 4, 8, 16, ... px and each direction, log(1 + mean modulus of the Gabor response
    in the place, in grey levels), the envelope's sd 0.56 wavelengths (a bandwidth of one octave); the same of two
    opponent colours at 8 px, averaged over the directions; log(1 + brightness) and both colours, under Gaussians of
    sd 4 and 16 px. Pixels are those of the image as it is given, whatever its size.

    Longer wavelengths are 4 px on the image halved (means of 2 x 2 pixels), halved again, and again. Responses are
    taken at about every wavelength (1.8 sd of the envelope) and averaged over the place, so that no thin line falls in
    between.

    Args:
        image_size: H. grid: G. levels: wavelengths, each twice the one before; 2 or more.

    Chosen: the paper does not say what its density describes. Test: tests/test_eq_filters.py
    """

    def __init__(self, *, image_size: int, grid: int, levels: int) -> None:
        super().__init__()
        self.grid = grid
        sizes = [max(1, image_size >> k) for k in range(levels)]
        counts = [grid * max(1, round(size / grid / WAVELENGTH)) for size in sizes]
        self.gabor = nn.ModuleList(
            Gabor(size=size, count=count, wavelength=WAVELENGTH) for size, count in zip(sizes, counts, strict=True)
        )
        self.sizes = sizes
        window = torch.stack([window_rows(image_size, grid, spread).real.float() for spread in SPREADS])
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("opponent", 255 * torch.tensor(OPPONENT), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, 3, H, H)`` images in [0, 1] to ``(batch, feature_count(levels), G, G)``."""
        with torch.autocast(images.device.type, enabled=False):
            pyramid = [(self.opponent @ images.flatten(2)).view_as(images)]
            for size in self.sizes[1:]:
                pyramid.append(F.adaptive_avg_pool2d(pyramid[-1], size))
            parts = [self._texture(image[:, 0], k).log1p() for k, image in enumerate(pyramid)]
            colours = pyramid[COLOURED][:, 1:]
            colours = self._texture(colours.flatten(0, 1), COLOURED).mean(dim=1).unflatten(0, colours.shape[:2])
            grey, *rest = self._means(pyramid[0]).unbind(dim=1)
            parts += [colours.log1p(), grey.clamp_min(0).log1p()]
            parts.append(torch.stack(rest, dim=2).flatten(1, 2) / COLOUR_UNIT)  # both colours at 4 px, then at 16 px
            return torch.cat(parts, dim=1)

    def _means(self, channels: Tensor) -> Tensor:
        """Means under the Gaussians of ``SPREADS``, ``(batch, channel, 2, G, G)``."""
        rows = (self.window.flatten(0, 1) @ channels).unflatten(2, self.window.shape[:2])
        return rows @ self.window.transpose(1, 2)

    def _texture(self, image: Tensor, k: int) -> Tensor:
        """Mean modulus of one level's responses in every direction, ``(batch, 4, G, G)``."""
        return F.adaptive_avg_pool2d(self.gabor[k](image), self.grid)
