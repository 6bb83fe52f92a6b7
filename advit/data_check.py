"""Everything wrong with a data set, found before training on it: ``advit data check``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from advit.data import file_digest, scan_category
from advit.errors import DataError
from advit.images import check_mask_size, read_image, read_mask, resize_mask
from advit.samples import Category, Sample
from advit.similarity import nearest_images, thumbnail

NEAR = 0.99  # similarity of two files of one photograph
MASK_SIZE = 256


@dataclass
class CategoryReport:
    """What was found in one category. Errors stop training, warnings do not; every line names its file.

    ``sizes`` holds each (width, height) that occurs, ``duplicates`` counts test images that are, exactly or nearly,
    training images, ``mismatched`` counts masks of another size than their image.
    """

    name: str
    layout: str = "-"
    train: int = 0
    test_good: int = 0
    test_anomalous: int = 0
    masks: int = 0
    missing: int = 0
    empty: int = 0
    mismatched: int = 0
    unreadable: int = 0
    duplicates: int = 0
    sizes: set[tuple[int, int]] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Seen:
    """What is kept of a decoded image: 4 kB, so that memory stays small however large the images are."""

    path: Path
    digest: bytes
    thumbnail: np.ndarray


def check_category(root: Path, name: str, progress: bool = False) -> CategoryReport:
    """Read every file of a category and report all problems, not only the first. Nothing is raised for bad data.

    Errors: no such category, what ``open_category`` refuses, images and masks that cannot be decoded, masks of
    another size than their image. Warnings: no test images, no masks, masks without a defect pixel (in their own
    size, or at 256 x 256, where nearest neighbour may lose a few pixels), files that occur twice, and test images
    that are nearly a training image.

    Test: tests/test_data_check.py
    """
    try:
        scan = scan_category(root, name)
    except DataError as error:
        return CategoryReport(name, errors=[str(error)])
    category = scan.category
    report = CategoryReport(name, category.layout, errors=[*scan.errors], warnings=[*scan.warnings])
    count(category, report)
    train: list[Seen] = []
    test: list[Seen] = []
    with tqdm(total=len(category.train) + len(category.test), desc=f"check {name}", disable=not progress) as bar:
        for samples, seen in ((category.train, train), (category.test, test)):
            for sample in samples:
                check_sample(sample, seen, report)
                bar.update()
    report.warnings += find_duplicates(train, test, report)
    return report


def count(category: Category, report: CategoryReport) -> None:
    """Fill in the numbers of samples, and note test images or masks that are missing altogether."""
    anomalous = [s for s in category.test if s.is_anomalous]
    report.train, report.test_anomalous = len(category.train), len(anomalous)
    report.test_good = len(category.test) - len(anomalous)
    report.masks = sum(s.mask is not None for s in anomalous)
    report.missing = len(anomalous) - report.masks
    if not category.test:
        report.warnings.append(f"no test image in {category.root}: it can be trained on, not evaluated")
    elif anomalous and not report.masks and not report.errors:
        report.warnings.append(f"no mask in {category.root}: no pixel metrics")


def check_sample(sample: Sample, seen: list[Seen], report: CategoryReport) -> None:
    """Decode an image and its mask; add what is wrong with them to the report, and the image to ``seen``."""
    size = None
    try:
        image = read_image(sample.path)
        size = (image.shape[-2], image.shape[-1])
        seen.append(Seen(sample.path, file_digest(sample.path), thumbnail(image)))
        report.sizes.add((size[1], size[0]))
    except DataError as error:
        report.unreadable += 1
        report.errors.append(str(error))
    if sample.mask is None:
        return
    try:
        mask = read_mask(sample.mask)
    except DataError as error:
        report.unreadable += 1
        report.errors.append(str(error))
        return
    try:
        check_mask_size(sample.mask, mask.shape, size or mask.shape)
    except DataError as error:
        report.mismatched += 1
        report.errors.append(str(error))
    if not mask.any():
        report.empty += 1
        report.warnings.append(f"mask {sample.mask} is empty, though its image is in {sample.defect}")
    elif not resize_mask(mask, MASK_SIZE).any():
        few = f"mask {sample.mask} holds {int(mask.sum())} defect pixels"
        report.warnings.append(f"{few}, none of which is left at {MASK_SIZE}x{MASK_SIZE}")


def find_duplicates(train: list[Seen], test: list[Seen], report: CategoryReport) -> list[str]:
    """One line per image that is the same file as an earlier one, and per test image near a training image.

    The limit NEAR lies between what was measured on both sides. Different images: at most 0.91 in bottle, 0.72 in a set
    of loose nuts, 0.98 in the synthetic gear. An image and its own copy as JPEG of quality 75, or at half the size: at
    least 0.995 in all of them. In a set of magnetic tiles the limit finds six test images, each the same tile in
    another exposure. A moved, turned or cropped copy is not found.
    """
    lines: list[str] = []
    first: dict[bytes, Path] = {}
    for seen in (*train, *test):
        if seen.digest in first:
            lines.append(f"{seen.path} is the same file as {first[seen.digest]}")
        first.setdefault(seen.digest, seen.path)
    trained = {s.digest for s in train}
    report.duplicates = sum(s.digest in trained for s in test)
    if not train or not test:
        return lines
    similarity, index = nearest_images(np.stack([s.thumbnail for s in train]), np.stack([s.thumbnail for s in test]))
    for seen, value, i in zip(test, similarity, index, strict=True):
        if value > NEAR and seen.digest not in trained:
            report.duplicates += 1
            lines.append(f"{seen.path} is nearly the training image {train[i].path} (similarity {value:.3f})")
    return lines


def check_table(reports: Iterable[CategoryReport]) -> pd.DataFrame:
    """One row per category: numbers of images, masks and problems, sizes as width x height (by area).

    Test: tests/test_data_check.py
    """
    titles = ["layout", "train", "test good", "test anomalous", "masks", "missing", "empty", "mismatched", "unreadable"]
    titles += ["duplicates", "smallest", "largest", "errors", "warnings"]
    rows: dict[str, list[str | int]] = {}
    for r in reports:
        counts = [r.train, r.test_good, r.test_anomalous, r.masks, r.missing, r.empty, r.mismatched, r.unreadable]
        sizes = [f"{w}x{h}" for w, h in sorted(r.sizes, key=lambda s: (s[0] * s[1], s))] or ["-"]
        rows[r.name] = [r.layout, *counts, r.duplicates, sizes[0], sizes[-1], len(r.errors), len(r.warnings)]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=titles)
    return table.rename_axis(columns="category")  # a title above the names, without a line of its own


def has_errors(reports: Iterable[CategoryReport]) -> bool:
    """Whether any category has an error; warnings do not count.

    Test: tests/test_data_check.py
    """
    return any(r.errors for r in reports)
