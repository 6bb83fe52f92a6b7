"""From mixture parameters to an anomaly map, step by step, and where a threshold lies on the PRO curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from numpy.typing import ArrayLike
from torch import Tensor, nn

from advit.augment import translate
from advit.detector import Detector
from advit.masks import scoring_masks
from advit.metrics import rank, region_weights
from advit.networks import by_place
from advit.patches import patchify, unpatchify
from advit.precision import full_precision, unit_images
from advit.scoring import pixel_maps, shift_offsets


@dataclass(frozen=True)
class DensitySteps:
    """Every step of one image's density map, on the fine grid G x G until it is upsampled to E x E pixels.

    ``image (H, H, 3)`` uint8; ``mask (E, E)`` bool; ``weight (G, G, K)``, ``mean`` and ``log_variance (G, G, K, D)``:
    the mixture of every patch; ``miss (G, G)``: mean squared distance of the target from the mixture's mean, per
    dimension; ``expected (H, H, 3)`` in [0, 1]: the mixture's mean painted, None if the target is no pixels; ``nll``
    in nats per dimension (less what the mixture expects, if ``score`` is "surprise") and ``standardised (G, G)``;
    ``upsampled`` and ``smoothed (E, E)``, the latter with halos faded if ``fades``.
    """

    image: np.ndarray
    mask: np.ndarray
    weight: np.ndarray
    mean: np.ndarray
    log_variance: np.ndarray
    miss: np.ndarray
    expected: np.ndarray | None
    nll: np.ndarray
    standardised: np.ndarray
    upsampled: np.ndarray
    smoothed: np.ndarray
    score: str = "NLL"
    fades: bool = False

    @property
    def effective_components(self) -> np.ndarray:
        """exp of the entropy of the weights, ``(G, G)`` in [1, K]: how many Gaussians a patch really uses."""
        return np.exp(-np.sum(self.weight * np.log(np.maximum(self.weight, 1e-30)), axis=-1))


def density_steps(detector: Detector, image: Tensor, mask: ArrayLike) -> DensitySteps:
    """Take one uint8 image ``(3, H, H)`` with its mask ``(E, E)`` through all steps of the density map.

    The same shifts and masks as in scoring, so that ``smoothed`` is the detector's own map; with several sets of masks
    the NLL (or its surprise) is the mean over all and the mixture that of the first.

    Raises:
        ValueError: for ``vt_adl``.

    Test: tests/test_explain_localization.py
    """
    config = detector.config
    if config.model != "advit":
        raise ValueError(f"model={config.model} has another likelihood and no steps to show.")
    device = next(detector.network.parameters()).device
    parts = mixtures(detector.network, unit_images(image[None], device, config.precision))
    standardised = detector.combine({"density": parts["nll"][None]}, "density")
    size = config.evaluation_size
    steps = [pixel_maps(standardised, size, *how)[0] for how in ((0.0,), (config.map_sigma, config.fade))]
    shown = image.permute(1, 2, 0).numpy()
    return DensitySteps(
        shown, np.asarray(mask, bool), **parts, standardised=standardised[0], upsampled=steps[0], smoothed=steps[1],
        score="surprise" if config.density_score == "surprise" else "NLL", fades=bool(config.fade),
    )  # fmt: skip


@torch.inference_mode()
def mixtures(network: nn.Module, images: Tensor, seed: int = 0) -> dict[str, np.ndarray | None]:
    """Mixture, miss, expected pixels and density score of one image ``(1, 3, H, H)``, each read where it was hidden."""
    config = network.eval().config
    g, s, c = config.grid, config.score_shifts, config.target_cells
    generator, offsets = torch.Generator().manual_seed(seed), shift_offsets(config.patch, s)
    parts: list[dict[str, Tensor]] = []
    for dy in offsets:
        for dx in offsets:
            moved, sets = translate(images, [(-dy, -dx)]), [None]
            if config.density_context == "others":
                sets = scoring_masks(config, generator)
            found = [_one_set(network, moved, masks) for masks in sets]
            found[0]["nll"] = torch.stack([f["nll"] for f in found]).mean(dim=0)
            order = "(gh gw cy cx) ... -> (gh cy) (gw cx) ..."
            parts.append({k: rearrange(v, order, gh=g, gw=g, cy=c, cx=c) for k, v in found[0].items()})
    weave = "(sy sx) gh gw ... -> (gh sy) (gw sx) ..."
    fine = {k: rearrange(torch.stack([p[k] for p in parts]), weave, sy=s).numpy() for k in parts[0]}
    if "expected" not in fine:
        return {**fine, "expected": None}
    cells = torch.from_numpy(fine["expected"]).flatten(0, 1)[None]
    painted = unpatchify(cells, config.patch // s, g * s)[0].clamp(0, 1)
    return {**fine, "expected": painted.permute(1, 2, 0).numpy()}


def _one_set(network: nn.Module, images: Tensor, masks: Tensor | None) -> dict[str, Tensor]:
    """Mixture of every place ``(N places, ...)`` of one image from one set of complementary masks."""
    config = network.config
    total: dict[str, Tensor] = {}
    fixed = network.target(images) if network.target is not None else None
    for mask in [None] if masks is None else masks.to(images.device):
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"):
            encoded, _ = network.encode(images, None if mask is None else mask[None], fixed)
            target = full_precision(encoded) if fixed is None else fixed
            mixture = network.density(encoded)
            score = network.patch_density(encoded, target)
        weight = mixture.log_weight.exp()
        centre = (weight[..., None] * mixture.mean).sum(dim=-2)
        found = {
            "weight": weight, "mean": mixture.mean, "log_variance": mixture.log_variance,
            "miss": (target - centre).square().mean(dim=-1), "nll": score,
        }  # fmt: skip
        if config.density_target == "pixels":
            found["expected"] = _centres(network, centre)
        for name, value in found.items():
            chosen = 1.0 if mask is None else by_place(mask, config).reshape(-1, *[1] * (value.ndim - 2))
            total[name] = total.get(name, 0) + value[0].float().cpu() * torch.as_tensor(chosen).cpu()
    return total


def _centres(network: nn.Module, target: Tensor) -> Tensor:
    """Targets ``(1, N, D)`` back to pixels, only the middle of each patch that belongs to it on the fine grid."""
    config, fixed = network.config, network.target
    pixels = target @ torch.linalg.pinv(fixed.whitening.double()).to(target.dtype) + fixed.mean
    side = config.patch // config.score_shifts
    start = (config.patch - side) // 2
    square = unpatchify(pixels.reshape(-1, 1, pixels.shape[-1]), config.patch, 1)
    return patchify(square[..., start : start + side, start : start + side], side).reshape(1, -1, 3 * side**2)


@dataclass(frozen=True)
class ProCurve:
    """The PRO curve of maps, and the point of any threshold on it.

    ``fpr`` and ``pro``: the curve's vertices; ``good``: scores of defect-free pixels, ascending; ``bad (d,)``: those
    of defect pixels with their ``weight``, which sums to 1, so that every region counts alike.
    """

    fpr: np.ndarray
    pro: np.ndarray
    good: np.ndarray
    bad: np.ndarray
    weight: np.ndarray

    def at(self, threshold: float) -> tuple[float, float]:
        """False positive rate and mean per-region overlap of "score >= threshold"."""
        below = np.searchsorted(self.good, np.asarray(threshold, self.good.dtype))
        return float(1 - below / len(self.good)), float(self.weight[self.bad >= threshold].sum())

    def threshold(self, fpr: float) -> float:
        """The lowest threshold whose false positive rate is at most ``fpr``."""
        allowed = int(fpr * len(self.good) + 1e-9)
        if allowed >= len(self.good):
            return float(self.good[0])
        return float(np.nextafter(self.good[len(self.good) - 1 - allowed], np.float32(np.inf)))


def pro_points(maps: np.ndarray, masks: np.ndarray) -> ProCurve | None:
    """PRO curve of float32 maps ``(n, E, E)`` against bool masks; None without a defect pixel, or nothing but.

    Source: Bergmann et al., IJCV 2021, section 5. Test: tests/test_explain_localization.py
    """
    if not masks.any() or masks.all():
        return None
    good, bad, weight = maps[~masks], maps[masks], region_weights(masks)
    fpr, pro, _ = rank(bad, good, weight).curve()
    return ProCurve(fpr, pro, good, bad, weight)
