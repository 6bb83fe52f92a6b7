"""A trained network with its calibration: images in, anomaly maps, image scores and decisions out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advit.calibration import Standardiser, decision_threshold, fit_standardiser
from advit.checkpoint import load_checkpoint, save_checkpoint
from advit.config import ADViTConfig
from advit.errors import CheckpointError, TrainingError
from advit.scoring import fine_side, image_scores, pixel_maps, score_images

CALIBRATION = "calibration.safetensors"
PARTS = {
    "density": ("density",),
    "reconstruction": ("reconstruction",),
    "discrepancy": ("discrepancy",),
    "association": ("association",),
    "combined": ("density", "reconstruction"),
}


@dataclass(frozen=True)
class Detector:
    """Network, one standardiser per score, and the threshold on the image score."""

    network: nn.Module
    standardisers: dict[str, Standardiser]
    threshold: float

    @property
    def config(self) -> ADViTConfig:
        return self.network.config

    def combine(self, scores: dict[str, np.ndarray], kind: str | None = None) -> np.ndarray:
        """Scores on the fine grid to one map ``(n, G, G)``, high where abnormal.

        Each score is standardised with statistics of defect-free training images, then averaged. The
        discrepancy enters with a minus: abnormal patches attend to their neighbours, as the prior does, so
        that their discrepancy is low (Anomaly Transformer, section 3.1).
        """
        parts = PARTS[kind or self.config.score]
        return np.mean([self._high_is_abnormal(p, self.standardisers[p](scores[p])) for p in parts], axis=0)

    def _high_is_abnormal(self, name: str, z: np.ndarray) -> np.ndarray:
        return -z if name == "discrepancy" and not self.standardisers[name].two_sided else z

    def maps(
        self, load: Callable[[list[int]], Tensor], count: int, device: torch.device, progress: str = ""
    ) -> np.ndarray:
        """Anomaly maps of ``count`` images at the evaluation size, ``(count, E, E)`` float32.

        Raises:
            CheckpointError: if one is not finite. Test: tests/test_hostile.py
        """
        wanted = PARTS[self.config.score]
        scores = score_images(self.network, load, count, device=device, wanted=wanted, progress=progress)
        return self.maps_of(scores)

    def maps_of(self, scores: dict[str, np.ndarray], kind: str | None = None) -> np.ndarray:
        """Scores on the fine grid to anomaly maps ``(n, E, E)``. Raises CheckpointError if one is not finite."""
        maps = pixel_maps(self.combine(scores, kind), self.config.evaluation_size, self.config.map_sigma)
        if not np.isfinite(maps).all():  # a NaN lies below every threshold and would be called good
            raise CheckpointError(
                "The run's weights give anomaly maps that are not finite: they are damaged. Train again."
            )
        return maps

    def image_scores(self, maps: np.ndarray) -> np.ndarray:
        """Image scores ``(n,)`` of anomaly maps."""
        return image_scores(maps, self.config.top_share)

    def save(self, run: Path, identity: dict[str, Any]) -> None:
        """Write the calibration beside the checkpoint."""
        tensors, standards = {}, {}
        for name, s in self.standardisers.items():
            tensors[f"{name}.mean"], tensors[f"{name}.sd"] = torch.from_numpy(s.mean), torch.from_numpy(s.sd)
            standards[name] = {"position_share": s.position_share, "two_sided": s.two_sided}
        meta = {"identity": identity, "threshold": self.threshold, "standards": standards}
        save_checkpoint(run / CALIBRATION, tensors, meta)


def calibrate(
    network: nn.Module, load: Callable[[list[int]], Tensor], count: int, kept_out: list[int], device: torch.device,
    progress: str = "", wanted: Collection[str] = (),
) -> Detector:  # fmt: skip
    """Statistics and threshold from ``count`` defect-free training images.

    ``wanted``: scores to standardise besides those of the configured map.

    The standardisers use all of them. The threshold is set on those ``kept_out`` of training (on all, if there are
    none), each of them judged by the statistics of all other images, as a new image would be.

    Raises:
        TrainingError: if the weights give a score that is not finite.

    Test: tests/test_detector.py
    """
    config = network.config
    needed = PARTS[config.score]
    scores = score_images(network, load, count, device=device, wanted={*needed, *wanted}, progress=progress)
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise TrainingError(
                f"Training ended in weights whose {name} scores are not finite. Lower the step with --set "
                "learning_rate=... or --set gradient_clip=1, and train again into an empty folder."
            )
    judging = {name: scores[name] for name in needed}
    maps = np.concatenate([judge_by_others(network, judging, i) for i in kept_out or range(count)])
    judged = image_scores(pixel_maps(maps, config.evaluation_size, config.map_sigma), config.top_share)
    standardisers = {k: fit_standardiser(v, config.standardise) for k, v in scores.items()}
    return Detector(network, standardisers, decision_threshold(judged))


def judge_by_others(network: nn.Module, scores: dict[str, np.ndarray], index: int) -> np.ndarray:
    """Map ``(1, G, G)`` of one image under the statistics of all others (its own, if there is no other)."""
    how = network.config.standardise
    others = {k: np.delete(v, index, axis=0) if len(v) > 1 else v for k, v in scores.items()}
    detector = Detector(network, {k: fit_standardiser(v, how) for k, v in others.items()}, 0.0)
    return detector.combine({k: v[index : index + 1] for k, v in scores.items()})


def load_calibration(network: nn.Module, run: Path, identity: dict[str, Any]) -> Detector:
    """Detector of a finished run.

    Raises:
        CheckpointError: if its calibration is missing, damaged, another run's, lacks a standard of the map's scores,
            or has one of another size.

    Test: tests/test_detector.py
    """
    path = run / CALIBRATION
    tensors, meta = load_checkpoint(path)
    needed = set(PARTS[network.config.score])
    if meta.get("identity") != identity:
        raise CheckpointError(f"{path} belongs to another run. Train again.")
    try:
        if missing := needed - set(meta["standards"]):
            raise ValueError(f"no standard of {', '.join(sorted(missing))}")
        standardisers = {
            name: Standardiser(tensors[f"{name}.mean"].numpy(), tensors[f"{name}.sd"].numpy(), **standard)
            for name, standard in meta["standards"].items()
        }
        threshold = float(meta["threshold"])
        numbers = [a for s in standardisers.values() for a in (s.mean, s.sd)]
        if not np.isfinite(threshold) or not all(np.isfinite(a).all() for a in numbers):
            raise ValueError("not finite")
        side = fine_side(network.config)
        if any(a.shape != (side, side) for a in numbers):
            raise ValueError(f"standards that are not {side} x {side}")
        return Detector(network, standardisers, threshold)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged or of another version ({error!r}). Train again.") from None
