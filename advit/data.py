"""Folders of images to lists of samples. Only names are read here, no image is decoded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from advit.errors import DataError, nearest
from advit.files import require_regular
from advit.layouts import found_layout, layout_of, scan_plain, scan_split
from advit.listing import entries, is_folder, listed
from advit.samples import GOOD, Category, Scan

SHOWN = 3
LAYOUTS = "train/good (MVTec AD), train/ok (BTAD), good/, or images"


def list_categories(root: Path) -> list[str]:
    """Names of the categories in ``root``, sorted.

    Raises:
        DataError: if ``root`` does not exist, is a category itself, or holds none.

    Test: tests/test_data.py
    """
    root = Path(root)
    if not is_folder(root):
        why = "is no folder" if os.path.lexists(root) else "does not exist"
        raise DataError(f"{root} {why}. Pass a folder of categories.")
    folders = [p for p in entries(root) if is_folder(p)]
    names = [p.name for p in folders if found_layout(p)]
    split = any(is_folder(root / "train" / good) for good in (GOOD, "ok"))
    plain = is_folder(root / GOOD) and found_layout(root / GOOD) == "folder"
    if split or plain or (not names and layout_of(root)):
        at = root.resolve()
        raise DataError(f"{root} is itself a category: pass --data {at.parent} -p {at.name}")
    if not names:
        for folder in folders:
            layout_of(folder)  # raises if one cannot be listed
        inner = [p for p in folders if any(is_folder(c) and found_layout(c) for c in listed(p))]
        hint = f" Did you mean {inner[0]}?" if inner else ""
        raise DataError(f"{root} holds no category: no folder in it has {LAYOUTS}.{hint}")
    return names


def open_category(root: Path, name: str) -> Category:
    """The samples of category ``name``, paired with their masks by stem, never by position.

    If the category has no folder of masks at all, masks are None. If it has one, every anomalous test image needs a
    mask and every mask an image.

    Raises:
        DataError: for a root or name that does not exist, a category without training images, two images of one
            stem, an image or mask without partner, or an image where none is expected. ``advit data check`` lists
            all of them.

    Differs: the public code lists images and masks separately and unsorted and pairs them by position.

    Test: tests/test_data.py
    """
    scan = scan_category(root, name)
    if scan.errors:
        more = len(scan.errors) - SHOWN
        rest = [f"... and {more} more; 'advit data check {root} -p {name}' lists all."] if more > 0 else []
        raise DataError("\n".join([*scan.errors[:SHOWN], *rest]))
    return scan.category


def scan_category(root: Path, name: str) -> Scan:
    """As ``open_category``, but collects problems instead of stopping at them.

    Raises:
        DataError: only if there is no such category.
    """
    root, known = Path(root), list_categories(root)
    if name not in known:
        here = root / name
        if name and is_folder(here):
            layout_of(here)  # raises if it cannot be listed
        inner = [p for p in entries(root) if is_folder(p) and name and found_layout(p / name)]
        hint = f" Did you mean --data {inner[0]}?" if inner else nearest(name, known)
        empty = f"{here} has no {LAYOUTS}. " if name and is_folder(here) else ""
        raise DataError(f"{empty}No category {name!r} in {root}. Available: {', '.join(known)}.{hint}")
    folder = root / name
    layout = layout_of(folder) or ""
    scan = Scan(Category(name, folder, layout, (), ()))
    if layout == "folder":
        train, test = scan_plain(folder, scan)
    else:
        train, test = scan_split(folder, GOOD if layout == "mvtec" else "ok", scan)
    if not train:
        expected = {"mvtec": folder / "train" / GOOD, "btad": folder / "train" / "ok"}.get(layout, folder)
        scan.errors.append(f"no training image in {expected}. Put defect-free images there.")
    if test and len({s.is_anomalous for s in test}) == 1:
        kind = "defect-free" if test[0].is_anomalous else "anomalous"
        scan.warnings.append(f"no {kind} test image in {folder}: AUROC is not defined")
    scan.category = Category(name, folder, layout, tuple(train), tuple(test))
    return scan


def data_digest(category: Category) -> str:
    """SHA-256 (hex) of all images and masks of a category: of their paths within it, and of their bytes.

    Independent of where the category lies and of the order of listing; any renamed, added or changed file changes it.

    Raises:
        DataError: if a file cannot be read.

    Test: tests/test_data.py
    """
    files = [p for s in (*category.train, *category.test) for p in (s.path, s.mask) if p]
    named = sorted((p.relative_to(category.root).as_posix(), p) for p in files)
    total = hashlib.sha256()
    for name, path in named:
        total.update(name.encode() + b"\0" + file_digest(path))
    return total.hexdigest()


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes. Raises DataError if it cannot be read."""
    try:
        require_regular(path)
        with open(path, "rb") as f:
            return hashlib.file_digest(f, "sha256").digest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Check the data set and its permissions.") from error
