"""One run from images to metrics, in a folder that can be resumed, evaluated again and shared."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advit.analysis import analyse, discrepancy_probe
from advit.cache import ImageCache
from advit.calibration import held_out
from advit.checkpoint import load_checkpoint, require_shapes, restore
from advit.config import ADViTConfig, require_seed, with_options
from advit.data import data_digest
from advit.detector import CALIBRATION, Detector, calibrate, load_calibration
from advit.errors import AdvitError, CheckpointError, ConfigError, DataError
from advit.evaluation import Evaluation, evaluate
from advit.files import atomic, require_regular, write_json, write_text
from advit.networks import SCORES, build_network, fit_target
from advit.plots import contact_sheet
from advit.precision import resolve_precision
from advit.results import code_version, device_name, provenance, versions
from advit.samples import Category
from advit.training import CHECKPOINT, fit, require_identity

CONFIG, METRICS, SCORES_CSV, SHEET = "config.json", "metrics.json", "scores.csv", "contact_sheet.png"
EXAMPLE, TRAINING, PATCHES = "example.npz", "training.json", "patches.npz"


def train_run(
    category: Category,
    config: ADViTConfig,
    *,
    seed: int,
    out: Path,
    device: torch.device,
    preset: str = "",
    resume: bool = False,
    progress: bool = True,
    pictures: bool = True,
    study: bool = False,
) -> dict[str, Any]:
    """Train, calibrate and evaluate one category; everything lands in ``out``. Returns the metrics.

    Every image and mask is decoded before ``out`` is created, so bad data leaves nothing behind. A killed run
    continues with ``resume=True`` to the same weights. ``pictures``: with contact sheet and example. ``study``: with
    what the notebooks need: every kind of map judged, patch scores kept, the discrepancy of test patches in the log.

    Raises:
        DataError, CheckpointError, TrainingError, AdvitError (from writing, or if ``out`` was removed).

    Test: tests/test_runs.py
    """
    if (out / CONFIG).exists() and not resume:
        raise CheckpointError(f"{out} already holds a run. Continue it with --resume, or choose another --out.")
    require_seed(seed)
    code = code_version()
    config = replace(config, precision=resolve_precision(config.precision, device))
    train, test = open_caches(category, config, progress)
    identity = identity_of(config, seed, category.name, data_digest(category))
    if (out / CONFIG).exists():
        require_identity(read_config(out), identity, out)
    network = build_network(config, seed)
    start = time.monotonic()
    kept_out = held_out(len(category.train))
    used = sorted(set(range(len(category.train))) - set(kept_out))

    def load(indices: list[int]) -> torch.Tensor:
        return train.batch([used[i] for i in indices])

    fit_target(network, load, len(used), seed)
    network.to(device)
    write_json(out / CONFIG, {"preset": preset, "data_root": str(category.root.parent.resolve()), **identity})
    fit(
        network,
        load,
        [category.train[i].path.name for i in used],
        seed=seed,
        device=device,
        run=out,
        identity=identity,
        resume=resume and (out / CHECKPOINT).exists(),
        progress=progress,
        probe=discrepancy_probe(category.test, test, device) if study and config.model == "advit" else None,
    )
    require_kept(out)
    note_training(out, code, device, time.monotonic() - start)
    start = time.monotonic()
    label = "calibrate" if progress else ""
    wanted = SCORES if study else ()
    detector = calibrate(network, train.batch, len(category.train), kept_out, device, label, wanted)
    detector.save(out, identity)
    training = read_training(out)
    found = finish(detector, category, test, out, identity, code, device, start, progress, training, pictures, study)
    require_kept(out)
    return found


def require_kept(out: Path) -> None:
    """Raise AdvitError if what the run wrote at its start is gone: then more of it may be.

    Test: tests/test_interruption.py
    """
    if not (out / CONFIG).exists():
        raise AdvitError(f"{out} was removed or emptied during the run, so that files are missing. Train again.")


def identity_of(config: ADViTConfig, seed: int, category: str, digest: str) -> dict[str, Any]:
    """What makes two runs the same: configuration, seed, category and data."""
    return {"config": config.to_dict(), "seed": seed, "category": category, "data_digest": digest}


def note_training(out: Path, code: dict[str, Any], device: torch.device, seconds: float) -> None:
    """Keep when and where the weights were made, once they are finished; a later call on the run changes nothing."""
    if not (out / TRAINING).exists():
        made = {**code, "device": device_name(device), "versions": versions(), "seconds": round(seconds, 1)}
        write_json(out / TRAINING, made)


def read_training(run: Path) -> dict[str, Any] | None:
    """What :func:`note_training` wrote, or None."""
    try:
        return json.loads((run / TRAINING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def finish(
    detector: Detector, category: Category, test: ImageCache, out: Path, identity: dict[str, Any],
    code: dict[str, Any], device: torch.device, start: float, progress: bool,
    training: dict[str, Any] | None, pictures: bool = True, study: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate and write metrics, scores and contact sheet. Without test images the metrics are empty.

    ``start``: when evaluation began, on the monotonic clock. ``training``: the record of the weights.
    """
    record: dict[str, Any] = {"category": category.name, "model": detector.config.model}
    if category.test:
        if study:
            result, by_kind, patches = analyse(detector, category.test, test, device, progress)
            record |= result.metrics | {"maps": by_kind}
            write_arrays(out / PATCHES, patches)
        else:
            result = evaluate(detector, category.test, test, device, progress)
            record |= result.metrics
        record["decisions"] = count_decisions(category, result.scores, detector.threshold)
        write_scores(out / SCORES_CSV, category, result, detector.threshold)
        if pictures:
            sheet = contact_sheet(category, test, result, detector.threshold, detector.map_threshold)
            with atomic(out / SHEET) as temporary:
                sheet.savefig(temporary, dpi=150)
            write_arrays(out / EXAMPLE, median_example(category, test, result, detector.map_threshold))
    record["threshold"], record["map_threshold"] = detector.threshold, detector.map_threshold
    record["standards"] = {
        role: {name: {"position_share": s.position_share, "two_sided": s.two_sided} for name, s in part.items()}
        for role, part in detector.standards.items()
    }
    record["images"] = {"train": len(category.train), "test": len(category.test)}
    record["config"] = identity["config"]
    record["provenance"] = provenance(
        code, device=device, seed=identity["seed"], data_digest=identity["data_digest"],
        seconds=time.monotonic() - start,
    )  # fmt: skip
    if training is not None:
        record["provenance"]["training"] = training
    write_json(out / METRICS, record)
    return record


def evaluate_run(
    run: Path, category: Category, device: torch.device, *, out: Path | None = None, progress: bool = True
) -> dict[str, Any]:
    """Evaluate a finished run again, on its own or other data, and write to ``out`` (default: the run).

    Raises:
        CheckpointError: if ``run`` is not a finished run. DataError: if there is nothing to evaluate on.
    """
    code, start = code_version(), time.monotonic()
    detector, identity = load_run(run, device)
    cache = ImageCache(category.test, detector.config.image_size, mask_size=detector.config.evaluation_size)
    cache.fill(progress=progress)
    if not category.test:
        raise DataError(f"{category.root} has no test images to evaluate on.")
    now = {**identity, "category": category.name, "data_digest": data_digest(category)}
    return finish(detector, category, cache, out or run, now, code, device, start, progress, read_training(run))


def open_caches(category: Category, config: ADViTConfig, progress: bool) -> tuple[ImageCache, ImageCache]:
    """Decode every image and mask of a category. Returns training and test cache."""
    train = ImageCache(category.train, config.image_size)
    test = ImageCache(category.test, config.image_size, mask_size=config.evaluation_size)
    train.fill(progress=progress)
    test.fill(progress=progress)
    return train, test


def read_config(run: Path) -> dict[str, Any]:
    """The run's ``config.json``. Raises CheckpointError if ``run`` is not a run or the file is damaged."""
    path = run / CONFIG
    try:
        require_regular(path)
        stored = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(ADViTConfig)}
        if not isinstance(stored["config"], dict) or set(stored["config"]) != known:
            raise CheckpointError(f"{path} was written by another version of advit. Train again.")
        for key, kind in (("seed", int), ("category", str), ("data_digest", str), ("data_root", str)):
            if type(stored[key]) is not kind:
                raise TypeError(f"{key} is {stored[key]!r}")
        require_seed(stored["seed"])
        with_options(ADViTConfig(), stored["config"])
        return stored
    except FileNotFoundError:
        raise CheckpointError(f"{run} is no run: it has no {CONFIG}. Pass the --out folder of 'advit train'.") from None
    except (ValueError, KeyError, TypeError, RecursionError, OSError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Train again.") from None


def load_run(run: Path, device: torch.device) -> tuple[Detector, dict[str, Any]]:
    """Detector of a finished run, and the run's identity (config, seed, category, data digest)."""
    stored = read_config(run)
    identity = {k: stored[k] for k in ("config", "seed", "category", "data_digest")}
    config = with_options(ADViTConfig(), stored["config"])
    tensors, meta = load_checkpoint(run / CHECKPOINT)
    require_identity(meta.get("identity", {}), identity, run)
    require_sizes(config, tensors, run)
    network = build_network(config, stored["seed"])
    restore(network, None, tensors, run / CHECKPOINT)
    if not (run / CALIBRATION).exists():
        step = meta.get("step")
        raise CheckpointError(f"{run} was interrupted in step {step}. Repeat its 'advit train' with --resume.")
    return load_calibration(network.to(device), run, identity), identity


def require_sizes(config: ADViTConfig, tensors: dict[str, torch.Tensor], run: Path) -> None:
    """Raise CheckpointError unless the weights are those of the configuration, before memory is taken for them."""
    other = CheckpointError(f"{run / CHECKPOINT} has not the sizes in {run / CONFIG}. Train again.")
    if config.depth > len(tensors):
        raise other
    try:
        with torch.device("meta"):
            network = build_network(config, 0)
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:  # numbers too large for any tensor
        raise other from error
    require_shapes(network, tensors, run / CHECKPOINT)


def median_example(category: Category, cache: ImageCache, result: Evaluation, threshold: float) -> dict[str, Any]:
    """The anomalous test image of median score, for figures: neither the best case nor the worst."""
    anomalous = [i for i, s in enumerate(category.test) if s.is_anomalous] or list(range(len(category.test)))
    i = sorted(anomalous, key=lambda k: (result.scores[k], k))[len(anomalous) // 2]
    good = result.maps[[k for k, s in enumerate(category.test) if not s.is_anomalous] or anomalous]
    return {
        "image": cache[i].permute(1, 2, 0).numpy(),
        "mask": cache.mask(i).numpy(),
        "anomaly_map": result.maps[i],
        "low": np.quantile(good, 0.5),
        "threshold": threshold,
        "title": f"{category.name}: {category.test[i].defect}",
    }


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Named arrays as one compressed file, whole or not at all."""
    with atomic(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def write_scores(path: Path, category: Category, result: Evaluation, threshold: float) -> None:
    """One line per test image: path, kind, score, decision."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "defect", "score", "threshold", "decision"])
    for sample, score in zip(category.test, result.scores, strict=True):
        table.writerow(
            [sample.path.relative_to(category.root).as_posix(), sample.defect, *score_cells(score, threshold)]
        )
    write_text(path, text.getvalue())


def count_decisions(category: Category, scores: np.ndarray, threshold: float) -> dict[str, int]:
    """How many defect-free test images are said to be anomalous (false alarms), and how many anomalous ones are found.

    Test: tests/test_runs.py
    """
    alarms = {False: 0, True: 0}
    for sample, score in zip(category.test, scores, strict=True):
        alarms[sample.is_anomalous] += bool(score > threshold)
    anomalous = sum(s.is_anomalous for s in category.test)
    return {
        "good": len(category.test) - anomalous, "false_alarms": alarms[False],
        "anomalous": anomalous, "found": alarms[True],
    }  # fmt: skip


def score_cells(score: float | np.floating, threshold: float) -> list[str]:
    """Score, threshold and decision as they are printed in every table of scores."""
    return [f"{score:.6f}", f"{threshold:.6f}", "anomalous" if score > threshold else "good"]
