"""Pixel metrics of many maps: one sort, against a loop over thresholds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, label

from advit.metrics import pixel_metrics
from benchmarks.timing import side_by_side

# AMD Zen 4 writes parts of an AVX-512 vector to memory very slowly, as NumPy's sort does (numpy/x86-simd-sort#6)
NUMPY_AVX2 = {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"}


def maps_and_masks(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth noise ``(count, side, side)`` float32 and rectangular defects on 6 of 10 maps, a little higher there."""
    random = np.random.default_rng(0)
    maps = gaussian_filter(random.standard_normal((count, side, side), dtype=np.float32), (0, 4, 4))
    masks = np.zeros(maps.shape, dtype=bool)
    for mask in masks[: max(1, count * 6 // 10)]:
        for _ in range(2):
            height, width = random.integers(side // 32, side // 6, 2)
            y, x = random.integers(0, side - side // 6, 2)
            mask[y : y + height, x : x + width] = True
    maps[masks] += 0.05
    return maps, masks


def loop_aupro(maps: np.ndarray, masks: np.ndarray, thresholds: int, limit: float = 0.3) -> float:
    """AU-PRO by a loop over evenly spaced thresholds, counting in every region anew."""
    numbered = [label(mask, np.ones((3, 3)))[0] for mask in masks]
    fpr, pro = [], []
    for threshold in np.linspace(maps.max(), maps.min(), thresholds):
        found = maps >= threshold
        fpr.append((found & ~masks).sum() / (~masks).sum())
        overlaps = [
            found[i][regions == r].mean() for i, regions in enumerate(numbered) for r in range(1, regions.max() + 1)
        ]
        pro.append(np.mean(overlaps))
    inside = np.linspace(0, limit, 1000)
    return float(np.trapezoid(np.interp(inside, fpr, pro), inside) / limit)


def seconds_of(maps: np.ndarray, masks: np.ndarray, repeats: int) -> float:
    """Median seconds of all pixel metrics, which use one thread."""
    return side_by_side({"it": lambda: pixel_metrics(maps, masks)}, repeats)["it"]


def case(count: int, side: int, repeats: int) -> Callable[[], float]:
    """:func:`seconds_of` as a case for the worker."""
    maps, masks = maps_and_masks(count, side)
    return lambda: seconds_of(maps, masks, repeats)


CASES: dict[str, Any] = {"pixel_metrics": case}
