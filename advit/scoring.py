"""Patch scores, anomaly maps and image scores of a trained network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
from einops import rearrange
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from tqdm.auto import tqdm

from advit.augment import translate
from advit.config import ADViTConfig
from advit.masks import scoring_masks
from advit.networks import SCORES, by_place, patch_scores
from advit.patches import patch_map_to_pixels
from advit.precision import unit_images
from advit.targets import Unseen

SURROUND = 64.0  # px at 512: sd of the Gaussian whose mean fades a map
COARSE = 64  # side of the map whose mean that is: a pixel of it is an eighth of that sd


def shift_offsets(patch: int, shifts: int) -> list[int]:
    """Offsets in pixels whose patch centres interleave to a regular grid ``shifts`` times as fine."""
    return [int((k - (shifts - 1) / 2) * patch / shifts) for k in range(shifts)]


def fine_side(config: ADViTConfig) -> int:
    """Side G of the fine grid: places that get a score of their own along one side of an image."""
    return config.score_shifts * config.target_cells * config.grid


@torch.inference_mode()
def score_batch(
    network: nn.Module,
    images: Tensor,
    seed: int = 0,
    wanted: Collection[str] = SCORES,
    unseen: Unseen | None = None,
) -> dict[str, Tensor]:
    """Scores of ``images (batch, 3, H, H)`` on the fine grid: ``(batch, G, G)`` each.

    With density_context="others" the density of a patch is read where that patch was masked, its discrepancy where
    it was not (its query is then its own); the other scores are averaged over the masks. The masks follow from ``seed``
    alone and are the same for every image, so a score does not depend on the batch an image came in.
    ``unseen``: of images that the target was fitted to; they are then scored as new ones are.

    Test: tests/test_scoring.py
    """
    config, parts = network.config, []
    generator = torch.Generator().manual_seed(seed)
    offsets, places = shift_offsets(config.patch, config.score_shifts), (config.grid * config.target_cells) ** 2
    for dy in offsets:
        for dx in offsets:
            # The content moves by -offset, so that patch centres lie at +offset in the image's own frame.
            moved = translate(images, [(-dy, -dx)] * len(images))
            total: dict[str, Tensor] = {}
            for scores, share in _passes(network, moved, generator, wanted, unseen):
                for name, value in scores.items():
                    value = value if value.shape[-1] == places else by_place(value, config)
                    total[name] = total.get(name, 0) + value.float() * share[name]
            parts.append(total)
    weave = "(sy sx) b (gh gw cy cx) -> b (gh cy sy) (gw cx sx)"
    sizes = {"sy": config.score_shifts, "gh": config.grid, "gw": config.grid, "cy": config.target_cells}
    return {k: rearrange(torch.stack([p[k] for p in parts]), weave, **sizes, cx=sizes["cy"]) for k in parts[0]}


def _passes(
    network: nn.Module, images: Tensor, generator: torch.Generator, wanted: Collection[str], unseen: Unseen | None
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Scores of every pass over a batch, and each score's share in the sum."""
    config = network.config
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
        target = None if network.target is None else network.target(images, unseen)  # the same in every pass
        if config.density_context != "others" or config.model == "vt_adl":
            yield patch_scores(network, images, None, wanted, target), dict.fromkeys(SCORES, 1.0)
            return
        masks = torch.cat(scoring_masks(config, generator)).to(images.device)
        hidden, shown = (by_place(m, config) / by_place(m, config).sum(dim=0).clamp_min(1) for m in (masks, ~masks))
        for i, mask in enumerate(masks):
            share = dict.fromkeys(SCORES, 1 / len(masks)) | {"density": hidden[i], "discrepancy": shown[i]}
            yield patch_scores(network, images, mask.expand(len(images), -1), wanted, target), share


def score_images(
    network: nn.Module,
    load: Callable[[list[int]], Tensor],
    count: int,
    *,
    device: torch.device,
    wanted: Collection[str] = SCORES,
    folds: Tensor | None = None,
    batch: int = 16,
    progress: str = "",
) -> dict[str, np.ndarray]:
    """Scores of ``count`` images on the fine grid, ``(count, G, G)`` float32 per score.

    Args:
        load: indices to a uint8 batch ``(batch, 3, H, H)``.
        folds: ``(count,)``, of images that the target was fitted to; each is scored as a new one is.
        progress: label of a progress bar; none if empty.
    """
    network.eval()
    found: dict[str, list[np.ndarray]] = {}
    for start in tqdm(range(0, count, batch), desc=progress, unit="batch", disable=not progress):
        pixels = load(list(range(start, min(start + batch, count))))
        images = unit_images(pixels, device, network.config.precision)
        unseen = None if folds is None else Unseen(folds[start : start + batch])
        for name, value in score_batch(network, images, wanted=wanted, unseen=unseen).items():
            found.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.concatenate(values) for name, values in found.items()}


def pixel_maps(maps: np.ndarray, size: int, map_sigma: float, fade: float = 0.0) -> np.ndarray:
    """Fine-grid maps ``(n, G, G)`` to anomaly maps ``(n, size, size)``: bilinear, a Gaussian filter, halos faded.

    ``map_sigma`` is in pixels at 512 and scales with ``size``. With ``fade``: m / (1 + s / fade), s the Gaussian mean
    of max(m, 0) around the pixel, sd SURROUND. What lies in the halo of a strong defect is then not worse than the
    middle of a faint one, and what is alone stays (divisive normalisation: Heeger 1992). So wide a mean is taken of the
    means over a grid of COARSE x COARSE, at a fraction of the time.

    Test: tests/test_scoring.py
    """

    def smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
        sigma *= values.shape[-1] / 512
        return gaussian_filter(values, sigma=(0, sigma, sigma), mode="nearest") if sigma > 0 else values

    found = smoothed(patch_map_to_pixels(torch.from_numpy(np.ascontiguousarray(maps)), size).numpy(), map_sigma)
    if not fade:
        return found
    coarse = adaptive_avg_pool2d(torch.from_numpy(np.maximum(found, 0)), min(size, COARSE)).numpy()
    around = patch_map_to_pixels(torch.from_numpy(smoothed(coarse, SURROUND)), size)
    return found / around.div_(fade).add_(1).numpy()


def image_scores(maps: np.ndarray, top_share: float) -> np.ndarray:
    """Image score ``(n,)``: maximum of each map, or the mean of its highest ``top_share`` of pixels."""
    flat = maps.reshape(len(maps), -1)
    if top_share <= 0:
        return flat.max(axis=1)
    k = max(1, round(top_share * flat.shape[1]))
    return np.partition(flat, -k, axis=1)[:, -k:].mean(axis=1)
