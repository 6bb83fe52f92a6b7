"""Images to patches and back, distances between patches, and patch scores to pixels."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images into flattened patches, row by row; inside a patch row, column, channel.

    Args:
        images: ``(batch, channel, height, width)``; height and width divisible by ``patch``.
        patch: side of a patch in pixels, p.

    Returns:
        ``(batch, N, p * p * channel)`` with N = (height / p) (width / p).

    Source: VT-ADL, section III (patch embedding). Test: tests/test_eq_patches.py
    """
    return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (p1 p2 c)", p1=patch, p2=patch)


def unpatchify(patches: Tensor, patch: int, grid: int) -> Tensor:
    """Inverse of :func:`patchify` for a square grid: ``(batch, N, p * p * channel)`` to images.

    Test: tests/test_eq_patches.py
    """
    return rearrange(patches, "b (gh gw) (p1 p2 c) -> b c (gh p1) (gw p2)", p1=patch, p2=patch, gh=grid)


def patch_distances(grid: int) -> Tensor:
    """Euclidean distance D_ij between the centres of patches i and j of a square grid, in patch units.

    Returns:
        ``(N, N)`` with N = grid**2, symmetric, zero on the diagonal.

    Differs: Anomaly Transformer uses |i - j| on a time axis; images have two axes.
    Test: tests/test_eq_patches.py
    """
    axis = torch.arange(grid, dtype=torch.float32)
    centres = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2)
    return torch.linalg.vector_norm(centres[:, None] - centres[None], dim=-1)


def grid_side(n: int) -> int:
    """Patches along one side of a square grid of N. ValueError if there is none. Test: tests/test_eq_patches.py"""
    grid = math.isqrt(n)
    if grid**2 != n:
        raise ValueError(f"{n} patches are no square grid, as {grid**2} or {(grid + 1) ** 2} are")
    return grid


def squared_patch_distances(n: int, rows: slice, like: Tensor) -> Tensor:
    """D_ij^2 between the patches ``rows`` and all N patches of a square grid, ``(rows, N)``, as ``like`` is.

    A square on each axis, added: no N x N matrix is needed for a few rows of it.

    Raises:
        ValueError: N patches are no square grid.

    Test: tests/test_eq_patches.py
    """
    grid = grid_side(n)
    axis = torch.arange(grid, dtype=like.dtype, device=like.device)
    along = (axis[:, None] - axis).square()
    patch = torch.arange(n, device=like.device)[rows]
    return (along[patch // grid, :, None] + along[patch % grid, None, :]).flatten(1)


def position_waves(grid: int, dim: int) -> Tensor:
    """Sine and cosine waves of row and column at dim / 4 wavelengths: where a position embedding starts from.

    Returns:
        ``(N, dim)``; neighbouring patches are similar, so that attention finds neighbours early in training.

    Source: Vaswani et al. 2017, section 3.5, for each of the two axes. Test: tests/test_eq_patches.py
    """
    count = dim // 4
    frequency = 10000.0 ** (-torch.arange(count) / max(count, 1))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    waves = [wave(axis.reshape(-1, 1) * frequency) for axis in (rows, columns) for wave in (torch.sin, torch.cos)]
    return F.pad(torch.cat(waves, dim=1), (0, dim - 4 * count))


def patch_map_to_pixels(scores: Tensor, size: int) -> Tensor:
    """Bilinear upsampling of patch scores with pixel-centre alignment: the peak stays on its patch.

    Args:
        scores: ``(batch, g, g)`` one score per patch.
        size: side of the result in pixels.

    Returns:
        ``(batch, size, size)``.

    Differs: the public code aligns corners, which moves the peak of a corner patch by half a patch.
    Test: tests/test_eq_patches.py
    """
    return F.interpolate(scores[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
