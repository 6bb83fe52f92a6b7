"""Test images to anomaly maps to metrics, overall and per defect kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from advit.cache import ImageCache
from advit.detector import Detector, Judged
from advit.metrics import image_metrics, pixel_metrics
from advit.samples import Sample

IMAGE_KEYS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_KEYS = ("pixel_auroc", "pixel_ap", "aupro_0.3", "aupro_0.05")


@dataclass(frozen=True)
class Evaluation:
    """Maps ``(n, E, E)``, image scores ``(n,)`` and metrics of the test images, in the order of the samples."""

    maps: np.ndarray
    scores: np.ndarray
    metrics: dict[str, Any]


def all_metrics(maps: np.ndarray, scores: np.ndarray, samples: tuple[Sample, ...], masks: np.ndarray) -> dict[str, Any]:
    """The seven metrics overall, and ``per_defect``: each kind against all defect-free test images.

    Pixel metrics are None unless every anomalous image that is judged has a mask.

    Test: tests/test_evaluation.py
    """

    def judge(chosen: np.ndarray) -> dict[str, float | None]:
        images = image_metrics(scores[chosen], labels[chosen])
        if not all(samples[i].mask or not labels[i] for i in chosen):
            return {**images, **dict.fromkeys(PIXEL_KEYS)}
        return {**images, **pixel_metrics(maps[chosen], masks[chosen])}

    labels = np.array([s.is_anomalous for s in samples])
    kinds = np.array([s.defect for s in samples])
    per_defect = {k: judge(np.flatnonzero((kinds == k) | ~labels)) for k in sorted(set(kinds[labels]))}
    return {**judge(np.arange(len(samples))), "per_defect": per_defect}


def evaluate(
    detector: Detector, samples: tuple[Sample, ...], cache: ImageCache, device: torch.device, progress: bool = True
) -> Evaluation:
    """Score all test images and compare with their masks at the configured evaluation size."""
    judged = detector.judge(cache.batch, len(samples), device, progress="score test" if progress else "")
    return compare(judged, samples, cache)


def compare(judged: Judged, samples: tuple[Sample, ...], cache: ImageCache) -> Evaluation:
    """Compare anomaly maps and image scores of the test images with their masks and labels."""
    masks = np.stack([cache.mask(i).numpy() for i in range(len(samples))])
    return Evaluation(*judged, all_metrics(*judged, samples, masks))
