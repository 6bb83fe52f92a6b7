"""The public code's evaluation defects as switches on a correct evaluation: how far does each move a metric?

Nothing is trained here. A finished run is judged once as it should be, and once more with a defect switched on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from advit.detector import PARTS, Detector
from advit.images import read_mask, resize_mask
from advit.losses import ssim
from advit.metrics import image_metrics, pixel_metrics
from advit.precision import unit_images
from advit.public_geometry import aligned_corners, crop_centre, grow_mask
from advit.samples import GOOD, Sample
from advit.scoring import image_scores, pixel_maps, score_images
from advit.vt_adl import VTADL

Load = Callable[[list[int]], Tensor]  # indices to a uint8 batch (batch, 3, H, H)
DRAWS = 5  # orders of listing that are averaged over


@dataclass(frozen=True)
class Parts:
    """What the public image score is a sum of, ``(n,)`` each: reconstruction error, SSIM, largest patch NLL."""

    mse: np.ndarray
    ssim: np.ndarray
    nll: np.ndarray


@dataclass(frozen=True)
class FinishedRun:
    """One finished run as arrays, n test images on a grid of G patches, judged at E pixels.

    ``grids (n, G, G)``: standardised patch map, high where abnormal; ``deciding``: the same in the unit of the image
    score, which is the maximum of that map smoothed by ``score_sigma``; None for that of ``grids``. ``kinds (n,)``:
    "good" or the defect's folder. ``masks`` and ``grown`` ``(n, E, E)``: by nearest neighbour, and as the public code
    makes them; None unless every anomalous image has a mask. ``noisy_grids`` and ``noisy_deciding``: with noise left
    on. ``parts``: of the public network only.
    """

    grids: np.ndarray
    kinds: np.ndarray
    masks: np.ndarray | None
    grown: np.ndarray | None
    threshold: float
    evaluation_size: int
    map_sigma: float = 0.0
    fade: float = 0.0
    top_share: float = 0.0
    deciding: np.ndarray | None = None
    score_sigma: float = 0.0
    noisy_grids: np.ndarray | None = None
    noisy_deciding: np.ndarray | None = None
    parts: Parts | None = None


@dataclass(frozen=True)
class Defect:
    """One row of the table: the defect's number in the list, in words, its switches and the metrics it moves.

    ``base``: switches of the value it is compared with. ``reported``: the public test script always does this.
    """

    number: str
    text: str
    switches: tuple[str, ...]
    metrics: tuple[str, ...]
    base: tuple[str, ...] = ()
    reported: bool = True


METRICS = {
    "image_auroc": "image-level AUROC",
    "image_f1": "image-level F1",
    "pixel_auroc": "pixel-level AUROC",
    "pro": "AU-PRO (FPR ≤ 0.3)",
}
PIXELS = ("pixel_auroc", "pro")
DEFECTS = (
    Defect("3", "noise left on at evaluation", ("noise",), ("image_auroc", *PIXELS), reported=False),
    Defect("13", "images and masks paired by an unsorted listing", ("unsorted",), PIXELS),
    Defect("14", "pixel-level AUROC printed as PRO", ("auroc_as_pro",), ("pro",)),
    Defect("15", "SSIM added to the image score", ("ssim_added",), ("image_auroc",), base=("ssim_subtracted",)),
    Defect("16", "mask is wherever the interpolation is above 0", ("grown",), PIXELS),
    Defect("16", "centre crop 550 to 512", ("crop",), ("image_auroc", *PIXELS)),
    Defect("17", "corners aligned in upsampling", ("align_corners",), PIXELS),
    Defect("18", "threshold picked on test images", ("test_threshold",), ("image_f1",), reported=False),
)
ALL = "all together, as the public code reports"


def unsorted_listing(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of the anomalous images as listings without an order give them: folders, then the files of each."""
    folders = rng.permutation(sorted(set(kinds) - {GOOD}))
    files = [rng.permutation(np.flatnonzero(kinds == folder)) for folder in folders]
    return np.concatenate([np.empty(0, dtype=int), *files])


def unsorted_order(kinds: np.ndarray, seed: int) -> np.ndarray:
    """Which mask each image gets if images and masks are listed separately and paired by position: ``(n,)``.

    Python leaves the order of ``os.listdir`` open; it is the file system's. A seeded permutation of every folder's
    entries, drawn anew for images and masks, stands for it. Defect-free images keep their empty masks.

    Source: the public mvtech.py:37,42,52,61,198. Test: tests/test_public_evaluation.py
    """
    rng, order = np.random.default_rng(seed), np.arange(len(kinds))
    order[unsorted_listing(kinds, rng)] = unsorted_listing(kinds, rng)
    return order


def f1_at(scores: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    """F1 of the decision "score > threshold"; NaN without an anomalous image."""
    found = scores > threshold
    return float(2 * (found & labels).sum() / (found.sum() + labels.sum())) if labels.any() else np.nan


def judge(run: FinishedRun, switches: Collection[str] = (), seed: int = 0) -> dict[str, float]:
    """``METRICS`` of a finished run with these defects switched on; NaN where undefined.

    Without a switch: every mask with its image, nearest-neighbour masks of the whole image, pixel-centre upsampling,
    image score from the map, AU-PRO to FPR 0.3, F1 at the threshold calibrated on defect-free training images.

    Args:
        switches: "noise", "unsorted" (``seed`` draws the order), "auroc_as_pro", "grown", "crop", "align_corners",
            "test_threshold"; "ssim_added" has the image score MSE + SSIM + max NLL, "ssim_subtracted" has
            MSE - SSIM + max NLL, both in place of the map's.

    Test: tests/test_public_evaluation.py
    """
    noise, corners = "noise" in switches, "align_corners" in switches
    maps = anomaly_maps(run.noisy_grids if noise else run.grids, run.evaluation_size, run.map_sigma, corners, run.fade)
    deciding = maps
    if run.deciding is not None:
        grids = run.noisy_deciding if noise else run.deciding
        deciding = anomaly_maps(grids, run.evaluation_size, run.score_sigma, corners)
    masks = run.grown if "grown" in switches else run.masks
    if masks is not None and "unsorted" in switches:
        masks = masks[unsorted_order(run.kinds, seed)]
    if "crop" in switches:
        maps, deciding, masks = (None if m is None else crop_centre(m) for m in (maps, deciding, masks))
    scores, labels = image_scores(deciding, run.top_share), run.kinds != GOOD
    for name, sign in (("ssim_added", 1), ("ssim_subtracted", -1)):
        if name in switches:
            scores = run.parts.mse + sign * run.parts.ssim + run.parts.nll
    image = image_metrics(scores, labels)
    pixel = {} if masks is None else pixel_metrics(maps, masks)
    found = {
        "image_auroc": image["image_auroc"],
        "image_f1": image["image_f1max"] if "test_threshold" in switches else f1_at(scores, labels, run.threshold),
        "pixel_auroc": pixel.get("pixel_auroc"),
        "pro": pixel.get("pixel_auroc" if "auroc_as_pro" in switches else "aupro_0.3"),
    }
    return {name: np.nan if value is None else value for name, value in found.items()}


def anomaly_maps(
    grids: np.ndarray, size: int, map_sigma: float, align_corners: bool, fade: float = 0.0
) -> np.ndarray:
    """Maps ``(n, E, E)`` of patch maps, upsampled the one way or the other, with the same filters."""
    return pixel_maps(aligned_corners(grids, size) if align_corners else grids, size, map_sigma, fade)


def defect_table(run: FinishedRun) -> pd.DataFrame:
    """One row per defect and metric: ``number``, ``defect``, ``metric``, ``correct``, ``with_defect``, ``difference``.

    Defects of noise and SSIM are left out where the run has no numbers for them. An unsorted listing is the mean of
    five drawn orders. The last rows have everything on that the public test script does whenever it runs: its model is
    built without noise, and it prints no F1.

    Test: tests/test_public_evaluation.py
    """
    missing = {"noise": run.noisy_grids is None, "ssim_added": run.parts is None}
    defects = [d for d in DEFECTS if not any(missing.get(s) for s in d.switches)]
    everything = tuple(s for d in defects for s in d.switches if d.reported)
    rows = []
    for defect in [*defects, Defect("all", ALL, everything, ("image_auroc", "pro"))]:
        correct = judge(run, defect.base)
        draws = DRAWS if "unsorted" in defect.switches else 1
        found = [judge(run, defect.switches, seed) for seed in range(draws)]
        for metric in defect.metrics:
            value = float(np.mean([f[metric] for f in found]))
            rows.append((defect.number, defect.text, METRICS[metric], correct[metric], value))
    table = pd.DataFrame(rows, columns=["number", "defect", "metric", "correct", "with_defect"])
    return table.assign(difference=table["with_defect"] - table["correct"])


class NoiseLeftOn(nn.Module):
    """A network whose encoded patches carry the training noise, as the public code's do after ``eval()``.

    The public flag is set in the constructor. Its test script builds a model without noise; whoever evaluates the
    model that was trained, as for a validation loss, has it on.

    Source: the public VT_AE.py:48-49, test.py:26. Test: tests/test_public_evaluation.py
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        super().__init__()
        self.network, self.generator = network, torch.Generator().manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "network" else getattr(self.network, name)

    def encode(self, *images: Tensor) -> Any:
        """The network's own encoding with noise on the patches; what else it returns is as it was."""
        found = self.network.encode(*images)
        encoded, *rest = found if isinstance(found, tuple) else (found,)
        noise = torch.randn(encoded.shape, generator=self.generator, dtype=encoded.dtype)
        encoded = encoded + self.network.config.noise_sd * noise.to(encoded.device)
        return (encoded, *rest) if rest else encoded


@torch.inference_mode()
def ssim_of_images(network: VTADL, load: Load, count: int, device: torch.device) -> np.ndarray:
    """SSIM of each image and its reconstruction by the public network, ``(count,)``."""
    network.eval()
    decoder, found = copy.deepcopy(network.decoder).float(), []  # its 512 x 512 layers are slow in float64
    for i in range(count):
        image = unit_images(load([i]), device, network.config.precision)
        found.append(float(ssim(image.float(), decoder(network.capsule(network.encode(image)).float()))))
    return np.array(found)


def finished_run(
    detector: Detector, scores: dict[str, np.ndarray], samples: Collection[Sample],
    load: Load, device: torch.device, noise_seed: int = 0, size: int | None = None,
) -> FinishedRun:  # fmt: skip
    """Arrays of a finished run: ``scores`` are its raw patch scores ``(n, G, G)``, ``load`` its test images.

    ``size``: pixels to judge at; default the configured evaluation size.

    The images pass through the network again, with noise, and for the SSIM of the public network's reconstruction.

    Test: tests/test_public_evaluation.py
    """
    config, count = detector.config, len(samples)
    size, masks, grown = size or config.evaluation_size, None, None
    if all(s.mask or not s.is_anomalous for s in samples):
        empty = torch.zeros(size, size, dtype=torch.uint8)
        files = [read_mask(s.mask) if s.mask else empty for s in samples]
        masks = np.stack([resize_mask(m, size).numpy() for m in files])
        grown = np.stack([resize_mask(grow_mask(m), size).numpy() for m in files])
    network, parts = detector.network.to(device), None
    noisy = NoiseLeftOn(network, noise_seed)
    noisy_scores = score_images(noisy, load, count, device=device, wanted=PARTS[config.score])
    if config.model == "vt_adl":
        mse, nll = scores["reconstruction"].mean(axis=(1, 2)), scores["density"].max(axis=(1, 2))
        parts = Parts(mse, ssim_of_images(network, load, count, device), nll)
    return FinishedRun(
        grids=detector.combine(scores), kinds=np.array([s.defect for s in samples]), masks=masks, grown=grown,
        threshold=detector.threshold, evaluation_size=size, map_sigma=config.map_sigma, fade=config.fade,
        deciding=detector.combine(scores, decide=True), score_sigma=config.score_sigma, top_share=config.top_share,
        noisy_grids=detector.combine(noisy_scores), noisy_deciding=detector.combine(noisy_scores, decide=True),
        parts=parts,
    )  # fmt: skip
