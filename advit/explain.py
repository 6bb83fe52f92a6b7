"""What attention says about one image: both associations, the learned scale and the discrepancy, patch by patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from advit.discrepancy import symmetric_kl
from advit.patches import patch_distances
from advit.precision import unit_images


@dataclass(frozen=True)
class AssociationView:
    """One image seen through L layers of M heads on a grid of g x g = N patches.

    ``image (h, w, 3)`` uint8; ``mask (e, e)`` bool, True on the defect; ``series`` and ``prior (L, M, N, N)`` float32,
    rows sum to 1; ``sigma (L, M, N)`` in patch units; ``discrepancy (L, M, N)`` in nats.
    """

    image: np.ndarray
    mask: np.ndarray
    series: np.ndarray
    prior: np.ndarray
    sigma: np.ndarray
    discrepancy: np.ndarray
    grid: int

    @property
    def share(self) -> np.ndarray:
        """Share of every patch that is defect, ``(N,)``."""
        return patch_shares(self.mask, self.grid).ravel()

    def pick(self, name: str, layer: int | None = None, head: int | None = None) -> np.ndarray:
        """One of ``series``, ``prior``, ``sigma``, ``discrepancy`` of a layer and head; None averages over all."""
        values = getattr(self, name)
        values = values.mean(axis=0) if layer is None else values[layer]
        return values.mean(axis=0) if head is None else values[head]


@torch.inference_mode()
def association_view(network: nn.Module, image: Tensor, mask: ArrayLike | None = None) -> AssociationView:
    """Look at one image, no patch hidden, with the network in evaluation mode (and left in the mode it was in).

    Args:
        network: a trained ``advit`` network; ``vt_adl`` has no prior-association.
        image: uint8 ``(3, H, H)``.
        mask: ``(e, e)``, True on the defect; None for a defect-free image.

    Scores with density_context="others" hide patches in turn and shift the grid; this view is of the plain image, in
    one pass, without bfloat16.

    Raises:
        ValueError: for a network without prior-association.

    Test: tests/test_explain.py
    """
    config = network.config
    if config.model != "advit":
        raise ValueError(f"model={config.model} has no prior-association to look at.")
    training = network.training
    network.eval()
    try:
        device = next(network.parameters()).device
        _, layers = network.encode(unit_images(image[None], device, config.precision))
    finally:
        network.train(training)
    divergence = [symmetric_kl(a.prior, a.series, config.smoothing_eps) for a in layers]
    series, prior, sigma = ([getattr(a, name) for a in layers] for name in ("series", "prior", "sigma"))
    stacked = [torch.cat(parts).float().cpu().numpy() for parts in (series, prior, sigma, divergence)]
    shown = image.permute(1, 2, 0).cpu().numpy()
    defect = np.zeros(shown.shape[:2], bool) if mask is None else np.asarray(mask, bool)
    return AssociationView(shown, defect, *stacked, grid=config.grid)


def patch_shares(mask: ArrayLike, grid: int) -> np.ndarray:
    """Share of every patch that is defect, ``(g, g)`` in [0, 1]; a mask whose side g does not divide is pooled.

    Test: tests/test_explain.py
    """
    pixels = torch.from_numpy(np.asarray(mask, dtype=np.float64))
    return F.adaptive_avg_pool2d(pixels[None, None], grid)[0, 0].numpy()


def most_covered_patch(share: np.ndarray) -> int:
    """Index of the patch most covered by the defect; of equals, the one nearest the defect's centre, then the first.

    Args:
        share: ``(N,)``, share of every patch that is defect.

    Raises:
        ValueError: without a defect.

    Test: tests/test_explain.py
    """
    if not share.max() > 0:
        raise ValueError("no patch is covered by a defect: pick patches of an anomalous image with a mask.")
    place = _places(share)
    centre = share @ place / share.sum()
    return int(np.lexsort((np.linalg.norm(place - centre, axis=1).round(9), -share))[0])


def farthest_normal_patch(share: np.ndarray) -> int:
    """Index of the patch free of the defect that is farthest from it; of equals, the first, row by row.

    Farthest: the distance to the nearest patch that the defect touches is largest. The rule leaves no choice, so no
    figure is picked by taste. Patches within two of the border, whose prior is cut off, are left out while others are
    free. If the defect touches every patch, those it
    covers least stand in for the free ones.

    Args:
        share: ``(N,)``, share of every patch that is defect.

    Test: tests/test_explain.py
    """
    place = _places(share)
    lowest = share.min()
    touched = place[share > lowest]
    if not len(touched):
        return 0
    distance = np.linalg.norm(place[:, None] - touched[None], axis=-1).min(axis=1)
    free, side = share == lowest, round(len(share) ** 0.5)
    inner = free & ((place >= 2) & (place < side - 2)).all(axis=1)
    return int(np.argmax(np.where(inner if inner.any() else free, distance, -1.0).round(9)))


def median_defect(share: np.ndarray) -> int | None:
    """Index of the image whose defect has the median size, neither the easiest nor the hardest; None without masks.

    Args:
        share: ``(n, G, G)``, share of every patch that is defect; NaN for an anomalous image without mask.

    Test: tests/test_explain.py
    """
    size = np.nansum(share, axis=(1, 2))
    order = [i for i in np.argsort(size, kind="stable") if size[i] > 0]
    return int(order[len(order) // 2]) if order else None


def reach(association: np.ndarray, grid: int) -> np.ndarray:
    """How far a patch associates: sum_j A_ij D_ij / mean_j D_ij, ``(..., N, N)`` to ``(..., N)``.

    0: with itself alone; 1: with all patches alike, wherever the patch lies; above 1: with distant ones. Claim C1 in
    one number: below 1 for abnormal patches, 1 for normal ones. Test: tests/test_explain.py
    """
    distance = patch_distances(grid).numpy()
    return np.einsum("...ij,ij->...i", association, distance / distance.mean(axis=1, keepdims=True))


def busiest_share(association: np.ndarray) -> np.ndarray:
    """Share of all association that goes to the one patch that gets most, ``(..., N, N)`` to ``(...)``.

    1/N if every patch gets alike; 1 if all patches look at one and the same. Test: tests/test_explain.py
    """
    return association.mean(axis=-2).max(axis=-1)


def layer_table(views: Mapping[str, AssociationView]) -> pd.DataFrame:
    """One row per category and layer: sigma, reach of both associations, busiest share, discrepancy.

    Means over heads and patches. Test: tests/test_explain.py
    """
    rows = [
        {
            "category": name,
            "layer": layer,
            "sigma": float(view.sigma[layer].mean()),
            "reach_prior": float(reach(view.prior[layer], view.grid).mean()),
            "reach_series": float(reach(view.series[layer], view.grid).mean()),
            "busiest_share": float(busiest_share(view.series[layer]).mean()),
            "discrepancy": float(view.discrepancy[layer].mean()),
        }
        for name, view in views.items()
        for layer in range(len(view.sigma))
    ]
    columns = ("category", "layer", "sigma", "reach_prior", "reach_series", "busiest_share", "discrepancy")
    return pd.DataFrame(rows, columns=columns)


def _places(share: np.ndarray) -> np.ndarray:
    """Row and column of every patch, ``(N, 2)``."""
    side = round(len(share) ** 0.5)
    return np.stack(np.divmod(np.arange(len(share)), side), axis=1).astype(float)
