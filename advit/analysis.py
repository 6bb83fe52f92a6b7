"""What the claims are judged by: every score of every test patch, one evaluation per kind of map, the gap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advit.cache import ImageCache
from advit.detector import PARTS, Detector
from advit.discrepancy import association_discrepancy
from advit.evaluation import Evaluation, compare
from advit.networks import SCORES
from advit.precision import unit_images
from advit.samples import Sample
from advit.scoring import score_images

PROBED = 16  # anomalous test images that a probe looks at


def analyse(
    detector: Detector, samples: tuple[Sample, ...], cache: ImageCache, device: torch.device, progress: bool = True
) -> tuple[Evaluation, dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Score all test images once and judge every kind of map that the network has.

    Returns:
        The evaluation of the configured map; the metrics of each kind's map, standardised by training images
        (``density``, ``reconstruction``, ``discrepancy``, ``association``); and per patch of the fine grid
        ``(n, G, G)`` the raw scores, with ``defect_share``, ``is_anomalous`` and ``names`` of the images.

    Test: tests/test_analysis.py
    """
    config, label = detector.config, "score test" if progress else ""
    raw = score_images(
        detector.network, cache.batch, len(samples), device=device, wanted=SCORES, batch=16, progress=label
    )

    def judge(kind: str) -> Evaluation:
        return compare(detector.judge_scores(raw, kind), samples, cache)

    result = judge(config.score)
    by_kind = {kind: result if PARTS[kind] == PARTS[config.score] else judge(kind) for kind in raw}
    metrics = {kind: {k: v for k, v in e.metrics.items() if k != "per_defect"} for kind, e in by_kind.items()}
    grid = next(iter(raw.values())).shape[-1]
    patches = {
        **raw,
        "defect_share": defect_share(samples, cache, grid),
        "is_anomalous": np.array([s.is_anomalous for s in samples]),
        "names": np.array([f"{s.defect}/{s.path.stem}" for s in samples]),
    }
    return result, metrics, patches


def defect_share(samples: tuple[Sample, ...], cache: ImageCache, grid: int) -> np.ndarray:
    """Share of each patch's pixels that are defect, ``(n, grid, grid)``; NaN for an anomalous image without mask.

    Test: tests/test_analysis.py
    """
    shares = np.zeros((len(samples), grid, grid))
    for i, sample in enumerate(samples):
        if sample.is_anomalous and sample.mask is None:
            shares[i] = np.nan
        elif sample.is_anomalous:
            mask = cache.mask(i)[None, None].double()
            shares[i] = torch.nn.functional.adaptive_avg_pool2d(mask, grid)[0, 0].numpy()
    return shares


def discrepancy_probe(
    samples: tuple[Sample, ...], cache: ImageCache, device: torch.device
) -> Callable[[nn.Module], dict[str, float]] | None:
    """A probe for :func:`advit.training.fit`: mean discrepancy of defect and of normal patches, in nats.

    It sees the first images with a mask, up to 16 of them, evenly from all kinds of defect, nothing of them hidden.
    None if there are none. What it measures is reported and used for nothing.

    Test: tests/test_analysis.py
    """
    masked = [i for i, s in enumerate(samples) if s.is_anomalous and s.mask is not None]
    if not masked:
        return None
    chosen = [masked[round(k)] for k in np.linspace(0, len(masked) - 1, min(PROBED, len(masked)))]
    pixels = cache.batch(chosen)

    @torch.inference_mode()
    def probe(network: nn.Module) -> dict[str, float]:
        config = network.config
        network.eval()
        images = unit_images(pixels, device, config.precision)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            values = association_discrepancy(network.encode(images)[1], config.smoothing_eps, config.kernels)
        share = torch.from_numpy(defect_share(samples, cache, config.grid)[chosen].reshape(len(chosen), -1))
        values = values.double().cpu()
        defect, normal = values[share >= DEFECT_SHARE], values[share == 0]
        found = {"ad_normal": mean_of(normal), "ad_defect": mean_of(defect)}
        return {name: value for name, value in found.items() if value is not None}

    return probe


DEFECT_SHARE = 0.5  # a patch with at least this share of defect pixels is a defect patch


def mean_of(values: Tensor) -> float | None:
    """Mean, or None of nothing."""
    return float(values.mean()) if len(values) else None


def patch_groups(patches: dict[str, np.ndarray], score: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A score's values on defect patches and on normal patches, one array per anomalous image with a mask.

    Defect patches are covered by the defect to at least one half; where no patch is, the most covered one. Normal
    patches are those of the same images that hold no defect pixel, so that light and product are the same.

    Test: tests/test_analysis.py
    """
    defect, normal = [], []
    for values, share in zip(patches[score], patches["defect_share"], strict=True):
        if not np.nanmax(share, initial=0) > 0 or not (share == 0).any():
            continue
        defect.append(values[share >= min(DEFECT_SHARE, share.max())].astype(np.float64))
        normal.append(values[share == 0].astype(np.float64))
    return defect, normal
