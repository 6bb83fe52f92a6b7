"""Anomaly maps, overlays and decisions for images of one's own."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm.auto import tqdm

from advit.detector import Detector
from advit.errors import DataError
from advit.files import atomic, write_text
from advit.images import read_image, resize_image
from advit.listing import IMAGE_SUFFIXES, is_image
from advit.plots import MAP_COLOURS
from advit.runs import score_cells


def find_images(paths: Iterable[Path], out: Path) -> list[tuple[Path, Path]]:
    """Images among files and folders (searched through), as pairs (path, name to save under), sorted, none twice.

    Hidden files, and what lies in ``out`` (results of an earlier call), are no photos and are passed over.

    Raises:
        DataError: for a path that does not exist, a file that is no image, or a folder without images.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if is_photo(p, path, out))
            if not inside:
                raise DataError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
            found |= {p: p.relative_to(path) for p in inside}
        elif not path.exists():
            raise DataError(f"{path} does not exist.")
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            raise DataError(f"{path} is no image: its name must end in {', '.join(sorted(IMAGE_SUFFIXES))}.")
        else:
            found[path] = Path(path.name)
    names: dict[Path, Path] = {}
    for path, name in found.items():
        other = names.setdefault(name.with_suffix(""), path)
        if other != path:
            raise DataError(f"{path} and {other} would be saved under one name. Pass them in separate calls.")
    return list(found.items())


def is_photo(path: Path, folder: Path, out: Path) -> bool:
    """Whether a file below ``folder`` is an image to look at; a broken link counts, so that reading it names it."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    ours = Path(os.path.realpath(out)) in Path(os.path.realpath(path)).parents
    return is_image(path) and not hidden and not ours


def overlay(image: np.ndarray, anomaly_map: np.ndarray, threshold: float, spread: float) -> np.ndarray:
    """Image ``(h, w, 3)`` uint8 with the map on top, more opaque the higher; invisible one spread below threshold."""
    strength = np.clip((anomaly_map - (threshold - spread)) / (3 * spread), 0, 1)
    colours = matplotlib.colormaps[MAP_COLOURS](strength)[..., :3] * 255
    alpha = (0.75 * np.clip(2 * strength, 0, 1))[..., None]
    return np.round(image * (1 - alpha) + colours * alpha).astype(np.uint8)


def map_at_size(anomaly_map: np.ndarray, height: int, width: int) -> np.ndarray:
    """Map ``(e, e)`` to ``(height, width)``, bilinear between pixel centres."""
    pixels = torch.from_numpy(np.ascontiguousarray(anomaly_map))[None, None]
    return F.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def localize(
    detector: Detector, paths: Iterable[Path], out: Path, device: torch.device, progress: bool = True
) -> list[dict[str, str]]:
    """Write, for each image, an overlay PNG and the float map as TIFF in the image's own size, and ``scores.csv``.

    All images are decoded before the first file is written: a bad one leaves nothing behind.

    Raises:
        DataError: for an image that cannot be read. AdvitError: if ``out`` cannot be written to.

    Test: tests/test_runs.py
    """
    images = find_images(paths, out)
    for path, _ in tqdm(images, desc="check images", unit="image", disable=not progress):
        read_image(path)
    size, rows = detector.config.image_size, []
    for path, name in tqdm(images, desc="localize", unit="image", disable=not progress):
        image = read_image(path)
        small = resize_image(image, size)[None]
        anomaly_map, (score,) = detector.judge(lambda _, small=small: small, 1, device)
        height, width = image.shape[-2:]
        full = map_at_size(anomaly_map[0], height, width)
        spread = max(float(np.std(anomaly_map)), 1e-6)
        target = out / name
        with atomic(target.with_name(f"{name.stem}_map.tiff")) as temporary:
            Image.fromarray(full.astype(np.float32)).save(temporary, compression="tiff_deflate")
        with atomic(target.with_name(f"{name.stem}_overlay.png")) as temporary:
            picture = overlay(image.permute(1, 2, 0).numpy(), full, detector.map_threshold, spread)
            Image.fromarray(picture).save(temporary)
        rows.append(dict(zip(SCORE_COLUMNS, [name.as_posix(), *score_cells(score, detector.threshold)], strict=True)))
    text = io.StringIO()
    table = csv.DictWriter(text, SCORE_COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(out / "scores.csv", text.getvalue())
    return rows


SCORE_COLUMNS = ("image", "score", "threshold", "decision")
