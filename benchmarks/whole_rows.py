"""Gabor features as products with whole rows of pixels, one direction at a time: what bands save the work of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advit.filters import ORIENTATIONS, WAVELENGTH, FilterBank, window_rows


class WholeRows(nn.Module):
    """The grey texture features of :class:`advit.filters.FilterBank`: each response is A X B^T, A and B whole."""

    def __init__(self, *, image_size: int, grid: int, levels: int) -> None:
        super().__init__()
        self.grid, self.sizes = grid, [image_size >> k for k in range(levels)]
        for k, size in enumerate(self.sizes):
            count = grid * max(1, round(size / grid / WAVELENGTH))
            for name, part in (("rows", math.sin), ("columns", math.cos)):
                waves = [part(math.pi * o / ORIENTATIONS) / WAVELENGTH for o in range(ORIENTATIONS)]
                found = torch.stack([window_rows(size, count, 0.56 * WAVELENGTH, wave) for wave in waves])
                self.register_buffer(f"{name}_{k}", found.to(torch.complex64))

    def forward(self, grey: Tensor) -> Tensor:
        """``(batch, H, H)`` brightness to ``(batch, levels x 4, G, G)``."""
        parts = []
        for k, size in enumerate(self.sizes):
            level = F.adaptive_avg_pool2d(grey, size)[:, None]
            a, b = getattr(self, f"rows_{k}"), getattr(self, f"columns_{k}").transpose(1, 2)
            rows = torch.complex(a.real @ level, a.imag @ level)
            parts.append(F.adaptive_avg_pool2d((rows @ b).abs(), self.grid).log1p())
        return torch.cat(parts, dim=1)


def texture_features(bank: FilterBank, grey: Tensor) -> Tensor:
    """The same features by the bank's bands."""
    levels = [F.adaptive_avg_pool2d(grey, size) for size in bank.sizes]
    return torch.cat([bank._texture(level, k).log1p() for k, level in enumerate(levels)], dim=1)
