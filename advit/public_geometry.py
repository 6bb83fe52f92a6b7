"""What the public code does to geometry: masks that grow, a border that is cut off, maps stretched to the corners."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from advit.vision import v2

RESIZED, CROPPED = 550, 512  # the public code resizes to the first and keeps the centre of the second


def grow_mask(mask: Tensor, size: int = RESIZED) -> Tensor:
    """Scale ``(h, w)`` of 0 and 1 to ``(size, size)`` bool as the public code does: bilinear, then "> 0".

    Every pixel that a defect touches becomes defect, which :func:`advit.images.resize_mask` does not do.
    Source: the public mvtech.py:162,187. Test: tests/test_public_evaluation.py
    """
    values = mask.as_subclass(Tensor)[None].to(torch.uint8) * 255
    bilinear = v2.InterpolationMode.BILINEAR
    return v2.functional.resize(values, [size, size], bilinear, antialias=True)[0] > 0


def area_growth(side: int, *, image_size: int = 1024, size: int = RESIZED, positions: int = 64) -> np.ndarray:
    """Area of a square defect after :func:`grow_mask` over its true area at that scale, ``(positions,)``.

    The square starts one pixel further along the diagonal each time: how it lies on the pixels decides how it grows.

    Test: tests/test_public_evaluation.py
    """
    areas = []
    for corner in range(positions):
        mask = torch.zeros(image_size, image_size, dtype=torch.uint8)
        start = image_size // 4 + corner
        mask[start : start + side, start : start + side] = 1
        areas.append(int(grow_mask(mask, size).sum()))
    return np.array(areas) / (side * size / image_size) ** 2


def aligned_corners(grids: np.ndarray, size: int) -> np.ndarray:
    """Bilinear upsampling ``(n, G, G)`` to ``(n, size, size)`` that puts the corner patches' centres in the corners.

    :func:`advit.patches.patch_map_to_pixels` keeps every peak on its patch. Source: the public test.py:167.
    """
    up = torch.from_numpy(np.ascontiguousarray(grids))[:, None]
    return F.interpolate(up, size=(size, size), mode="bilinear", align_corners=True)[:, 0].numpy()


def peak_offsets(upsample: Callable[[np.ndarray, int], np.ndarray], grid: int, size: int) -> np.ndarray:
    """How far, along one axis, the peak of each patch of the first row lies off the patch's centre: ``(grid,)``, px.

    Of a plateau, its pixel nearest to the centre counts. Test: tests/test_public_evaluation.py
    """
    impulses = np.zeros((grid, grid, grid), dtype=np.float64)
    impulses[np.arange(grid), 0, np.arange(grid)] = 1
    off = np.arange(size) - ((np.arange(grid)[:, None] + 0.5) * size / grid - 0.5)
    line = upsample(impulses, size).max(axis=1)
    at_peak = np.where(np.isclose(line, line.max(axis=1, keepdims=True)), np.abs(off), np.inf)
    return off[np.arange(grid), at_peak.argmin(axis=1)]


def crop_centre(maps: np.ndarray) -> np.ndarray:
    """The central 512 / 550 of ``(n, E, E)`` in each direction; the rest of the image is never judged.

    Differs: the public network does not see the border either; here it is cut from the finished map.
    Source: the public mvtech.py:187-188. Test: tests/test_public_evaluation.py
    """
    size = maps.shape[-1]
    border = round(size * (1 - CROPPED / RESIZED) / 2)
    return maps[:, border : size - border, border : size - border]
