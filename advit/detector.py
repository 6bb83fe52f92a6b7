"""A trained network with its calibration: images in, anomaly maps, image scores and decisions out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advit.calibration import Standardiser, decision_threshold, fit_standardiser
from advit.checkpoint import load_checkpoint, save_checkpoint
from advit.config import ADViTConfig
from advit.errors import CheckpointError, TrainingError
from advit.scoring import fine_side, image_scores, pixel_maps, score_images
from advit.similarity import lone_images, thumbnail
from advit.targets import FOLDS, FilterTarget

CALIBRATION = "calibration.safetensors"
LEAST_JUDGED, MOST_JUDGED = 20, 200  # training images that set the thresholds
PARTS = {
    "density": ("density",),
    "reconstruction": ("reconstruction",),
    "discrepancy": ("discrepancy",),
    "association": ("association",),
    "combined": ("density", "reconstruction"),
}


class Judged(NamedTuple):
    """Anomaly maps ``(n, E, E)``, float32, and image scores ``(n,)``; both high where abnormal."""

    maps: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Detector:
    """Network, two standardisers per score, and two thresholds that few defect-free images exceed.

    ``standardisers`` make the anomaly map, which says where, and ``deciders`` the map whose maximum is the image score,
    which says whether: places can be compared with each other in one unit for all, and an image is judged by the place
    that is least typical of itself. ``map_threshold`` is of the map, ``threshold`` of the image score.
    """

    network: nn.Module
    standardisers: dict[str, Standardiser]
    deciders: dict[str, Standardiser]
    map_threshold: float
    threshold: float

    @property
    def config(self) -> ADViTConfig:
        return self.network.config

    @property
    def standards(self) -> dict[str, dict[str, Standardiser]]:
        """Both kinds of standardisers by what they make."""
        return {"map": self.standardisers, "score": self.deciders}

    def combine(self, scores: dict[str, np.ndarray], kind: str | None = None, decide: bool = False) -> np.ndarray:
        """Scores on the fine grid to one map ``(n, G, G)``, high where abnormal: the anomaly map, or the deciding one.

        Each score is standardised with statistics of defect-free training images, then averaged. The
        discrepancy enters with a minus: abnormal patches attend to their neighbours, as the prior does, so
        that their discrepancy is low (Anomaly Transformer, section 3.1).
        """
        chosen = self.deciders if decide else self.standardisers

        def high_is_abnormal(name: str) -> np.ndarray:
            z = chosen[name](scores[name])
            return -z if name == "discrepancy" and not chosen[name].two_sided else z

        return np.mean([high_is_abnormal(name) for name in PARTS[kind or self.config.score]], axis=0)

    def judge(
        self, load: Callable[[list[int]], Tensor], count: int, device: torch.device, progress: str = ""
    ) -> Judged:
        """Anomaly maps, at the evaluation size, and image scores of ``count`` images.

        Raises:
            CheckpointError: if one is not finite. Test: tests/test_hostile.py
        """
        wanted = PARTS[self.config.score]
        scores = score_images(self.network, load, count, device=device, wanted=wanted, progress=progress)
        return self.judge_scores(scores)

    def judge_scores(self, scores: dict[str, np.ndarray], kind: str | None = None) -> Judged:
        """The same from scores on the fine grid. Raises CheckpointError if a map is not finite."""
        config = self.config
        maps = pixel_maps(self.combine(scores, kind), config.evaluation_size, config.map_sigma, config.fade)
        decided = decided_scores(self.combine(scores, kind, decide=True), config)
        if not np.isfinite(maps).all() or not np.isfinite(decided).all():  # NaN would lie below every threshold
            raise CheckpointError(
                "The run's weights give anomaly maps that are not finite: they are damaged. Train again."
            )
        return Judged(maps, decided)

    def save(self, run: Path, identity: dict[str, Any]) -> None:
        """Write the calibration beside the checkpoint."""
        tensors, standards = {}, {}
        for name, s in {f"{role}.{n}": s for role, part in self.standards.items() for n, s in part.items()}.items():
            tensors[f"{name}.mean"], tensors[f"{name}.sd"] = torch.tensor(s.mean), torch.tensor(s.sd)
            standards[name] = {"position_share": s.position_share, "two_sided": s.two_sided}
        thresholds = {"map_threshold": self.map_threshold, "threshold": self.threshold}
        meta = {"identity": identity, **thresholds, "standards": standards}
        save_checkpoint(run / CALIBRATION, tensors, meta)


def calibrate(
    network: nn.Module, load: Callable[[list[int]], Tensor], count: int, kept_out: list[int], device: torch.device,
    progress: str = "", wanted: Collection[str] = (),
) -> Detector:  # fmt: skip
    """Statistics and thresholds from ``count`` defect-free training images.

    ``wanted``: scores to standardise besides those of the configured map.

    The standardisers use all of them. The thresholds are set on images judged as new ones would be
    (:func:`judged_as_new`).

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
    judged = judged_as_new(network, load, {name: scores[name] for name in needed}, kept_out, device)
    highest = decision_threshold(np.array([j.maps.max() for j in judged]))
    threshold = decision_threshold(np.concatenate([j.scores for j in judged]))
    return Detector(network, *standards_of(scores, config), highest, threshold)


def judged_as_new(
    network: nn.Module, load: Callable[[list[int]], Tensor], scores: dict[str, np.ndarray], kept_out: list[int],
    device: torch.device,
) -> list[Judged]:  # fmt: skip
    """Maps and scores of training images, each as if it were a new one.

    Judged are the images ``kept_out`` of training and, if the score is the density of filters, the others too, with the
    target's statistics of the folds that each is not in (:class:`advit.targets.FilterTarget`); without either, all.
    Images of which another one shows nearly the same (:func:`advit.similarity.lone_images`) are not new to those
    statistics and left out, unless fewer than LEAST_JUDGED would remain. Of more than MOST_JUDGED, a part, evenly.

    Test: tests/test_detector.py
    """
    count = len(next(iter(scores.values())))
    used = {image: place for place, image in enumerate(sorted(set(range(count)) - set(kept_out)))}
    target = network.target
    crossed = network.config.score == "density" and isinstance(target, FilterTarget) and target.crossed
    candidates = range(count) if crossed or not kept_out else kept_out
    alone = lone_images(np.stack([thumbnail(load([i])[0]) for i in range(count)]))
    chosen = [i for i in candidates if alone[i]]
    if len(chosen) < LEAST_JUDGED:
        chosen = list(candidates)
    chosen = chosen[:: -(-len(chosen) // MOST_JUDGED)]
    again = [i for i in chosen if crossed and i in used]
    if not again:
        return [judge_by_others(network, scores, i) for i in chosen]
    folds = torch.tensor([used[i] % FOLDS for i in again])
    crossed_scores = score_images(
        network, lambda rows: load([again[j] for j in rows]), len(again), device=device, wanted=scores, folds=folds
    )
    own = {i: {k: v[j : j + 1] for k, v in crossed_scores.items()} for j, i in enumerate(again)}
    return [judge_by_others(network, scores, i, own.get(i)) for i in chosen]


def judge_by_others(
    network: nn.Module, scores: dict[str, np.ndarray], index: int, own: dict[str, np.ndarray] | None = None
) -> Judged:
    """Map and score of one image under the statistics of all others (its own, if there is no other).

    ``own``: what is judged, if not the image's own part of ``scores``.
    """
    others = {k: np.delete(v, index, axis=0) if len(v) > 1 else v for k, v in scores.items()}
    detector = Detector(network, *standards_of(others, network.config), 0.0, 0.0)
    return detector.judge_scores(own or {k: v[index : index + 1] for k, v in scores.items()})


def standards_of(
    scores: dict[str, np.ndarray], config: ADViTConfig
) -> tuple[dict[str, Standardiser], dict[str, Standardiser]]:
    """Standardisers of the anomaly map and of the image score, from the scores ``(n, G, G)`` of training images."""
    roles = (config.standardise, config.score_standardise)
    maps, image_score = ({k: fit_standardiser(v, how) for k, v in scores.items()} for how in roles)
    return maps, image_score


def decided_scores(maps: np.ndarray, config: ADViTConfig) -> np.ndarray:
    """Image scores ``(n,)`` of deciding maps ``(n, G, G)``."""
    return image_scores(pixel_maps(maps, config.evaluation_size, config.score_sigma), config.top_share)


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
        found: dict[str, dict[str, Standardiser]] = {"map": {}, "score": {}}
        for key, standard in meta["standards"].items():
            role, name = key.split(".")
            found[role][name] = Standardiser(tensors[f"{key}.mean"].numpy(), tensors[f"{key}.sd"].numpy(), **standard)
        if missing := needed - set(found["map"]) | needed - set(found["score"]):
            raise ValueError(f"no standard of {', '.join(sorted(missing))}")
        thresholds = [float(meta[name]) for name in ("map_threshold", "threshold")]
        numbers = [a for part in found.values() for s in part.values() for a in (s.mean, s.sd)]
        if not np.isfinite(thresholds).all() or not all(np.isfinite(a).all() for a in numbers):
            raise ValueError("not finite")
        side = fine_side(network.config)
        if any(a.shape != (side, side) for a in numbers):
            raise ValueError(f"standards that are not {side} x {side}")
        return Detector(network, found["map"], found["score"], *thresholds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged or of another version ({error!r}). Train again.") from None
