"""Anomaly maps of a run's test images in the folder layout that published evaluation scripts read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from advit.cache import ImageCache
from advit.data import open_category
from advit.detector import Detector
from advit.errors import CheckpointError, DataError
from advit.files import atomic
from advit.images import read_image
from advit.localize import map_at_size
from advit.runs import CONFIG, load_run, read_config
from advit.samples import Category

FORMATS = ("mvtec",)


def find_runs(folder: Path) -> list[Path]:
    """The run in ``folder``, or the runs in the folders of it (as ``advit train -p all --out`` writes them), sorted.

    Raises:
        CheckpointError: if there is none, or two are of one category, whose maps would have the same names.
    """
    folder = Path(folder)
    if (folder / CONFIG).exists() or not folder.is_dir():
        read_config(folder)
        return [folder]
    runs = sorted(p.parent for p in folder.glob(f"*/{CONFIG}"))
    if not runs:
        raise CheckpointError(f"{folder} is no run and holds none. Pass an --out folder of 'advit train'.")
    seen: dict[str, Path] = {}
    for run in runs:
        other = seen.setdefault(read_config(run)["category"], run)
        if other != run:
            raise CheckpointError(f"{other} and {run} are of one category. Export them one by one, each to its --out.")
    return runs


def export_maps(
    detector: Detector, category: Category, out: Path, device: torch.device, progress: bool = True
) -> list[Path]:
    """Write the anomaly map of every test image as ``OUT/CATEGORY/test/DEFECT/STEM.tiff``; returns the paths.

    float32, uncompressed, in the size of the image (upright, as its mask), high where abnormal. This is the layout of
    MVTec AD's published evaluation code (``evaluate_experiment.py --anomaly_maps_dir OUT``), which computes AU-PRO and
    the image-level AUROC of the maximum from it (our own image score, in ``scores.csv``, is the maximum of another map:
    :class:`advit.detector.Detector`). Defect-free images are in ``test/good`` whatever the data set's layout. All
    images are decoded before the first map is written.

    Chosen: bilinear between pixel centres from the evaluation size to the image's. At another size than
    ``evaluation_size`` AU-PRO differs a little from ``metrics.json``, since masks are not resized.

    Raises:
        DataError: without test images, or for one that cannot be decoded. AdvitError: if ``out`` cannot be written to.

    Test: tests/test_export.py
    """
    if not category.test:
        raise DataError(f"{category.root} has no test images to export maps of.")
    cache = ImageCache(category.test, detector.config.image_size)
    cache.fill(progress=progress)
    maps = detector.judge(cache.batch, len(category.test), device, progress="score test" if progress else "").maps
    written: list[Path] = []
    for sample, anomaly_map in zip(
        tqdm(category.test, desc="write maps", unit="map", disable=not progress), maps, strict=True
    ):
        height, width = read_image(sample.path).shape[-2:]
        path = out / category.name / "test" / sample.defect / f"{sample.path.stem}.tiff"
        with atomic(path) as temporary:
            Image.fromarray(map_at_size(anomaly_map, height, width).astype(np.float32)).save(temporary)
        written.append(path)
    return written


def export(
    folder: Path, out: Path, device: torch.device, *, data: Path | None = None, progress: bool = True
) -> Iterator[tuple[str, Path, int]]:
    """Export every run of ``folder``; yields category, the root of its data and the number of maps.

    Args:
        data: root of the data, if not the one trained on.

    Raises:
        CheckpointError, DataError, AdvitError: as :func:`find_runs` and :func:`export_maps`.

    Test: tests/test_export.py
    """
    for run in find_runs(folder):
        stored = read_config(run)
        root = data or Path(stored["data_root"])
        category = open_category(root, stored["category"])
        detector, _ = load_run(run, device)
        yield category.name, root, len(export_maps(detector, category, out, device, progress))
