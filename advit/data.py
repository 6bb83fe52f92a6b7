"""Folders of images to lists of samples. Only names are read here, no image is decoded.

Three layouts of a category, which is a folder ROOT/NAME:

- ``mvtec`` (MVTec AD): ``train/good``, ``test/good``, ``test/<defect>``, ``ground_truth/<defect>/<stem>_mask.png``
- ``btad`` (BTAD): ``train/ok``, ``test/ok``, ``test/ko``, ``ground_truth/ko/<stem>.png`` or ``.bmp``
- ``folder``: images in ROOT/NAME itself, all defect-free; or in ROOT/NAME/good, and anomalous ones in ROOT/NAME/bad
  with masks, if any, in ROOT/NAME/masks. Where there is a ``bad``, every fifth of ``good`` is held out for testing.

Masks may be called ``<stem>_mask`` or ``<stem>`` everywhere, and belong to the image of that stem in the folder of
the same defect. Files are taken in the order of their names, whatever order the file system lists them in.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from advit.errors import DataError, nearest
from advit.files import require_regular

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
NOTE_SUFFIXES = frozenset({".txt", ".md", ".json", ".csv", ".db", ".ini"})
GOOD = "good"
HOLD_OUT = 5
SHOWN = 3
LAYOUTS = "train/good (MVTec AD), train/ok (BTAD), good/, or images"


@dataclass(frozen=True)
class Sample:
    """One image: its file, its defect (``"good"`` is defect-free) and its mask file, if it has one."""

    path: Path
    defect: str = GOOD
    mask: Path | None = None

    @property
    def is_anomalous(self) -> bool:
        return self.defect != GOOD


@dataclass(frozen=True)
class Category:
    """A category's training images (all defect-free) and test images, each sorted by folder, then stem."""

    name: str
    root: Path
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]


@dataclass
class Scan:
    """What a category's folders hold, and everything found wrong with their names."""

    category: Category
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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


def entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted by stem and name, without hidden files; nothing if there is no such folder."""
    try:
        found = [p for p in folder.iterdir() if not p.name.startswith(".")] if is_folder(folder) else []
        for path in found[:1]:
            path.lstat()  # a folder that may be listed and not entered would look as if it held no folders
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}. Check its permissions.") from error
    return sorted(found, key=lambda p: (p.stem, p.name))


def listed(folder: Path) -> list[Path]:
    """As ``entries``, but nothing for a folder that cannot be listed."""
    try:
        return entries(folder)
    except DataError:
        return []


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; False where that cannot be found out, whatever is wrong with the path."""
    return os.path.isdir(path)


def is_image(path: Path) -> bool:
    """By its name; a broken link counts, so that it is reported when read instead of dropped."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_folder(path)


def images_below(folder: Path) -> list[Path]:
    """Every image in a folder and the folders in it, except hidden ones; links to folders are not followed."""
    found: list[Path] = []
    for path in entries(folder):
        if not is_folder(path):
            found += [path] * is_image(path)
        elif not path.is_symlink():
            found += images_below(path)
    return found


def layout_of(folder: Path) -> str | None:
    """The layout of a category, or None if the folder is none."""
    if is_folder(folder / "train") or (is_folder(folder / "test") and is_folder(folder / "ground_truth")):
        btad = any(is_folder(folder / kind) for kind in ("train/ok", "test/ko"))
        return "btad" if btad and not is_folder(folder / "train" / GOOD) else "mvtec"
    inside = entries(folder)
    return "folder" if is_folder(folder / GOOD) or any(is_image(p) for p in inside) else None


def found_layout(folder: Path) -> str | None:
    """As ``layout_of``, and None for a folder that cannot be listed (``lost+found`` beside categories is none)."""
    try:
        return layout_of(folder)
    except DataError:
        return None


def images_in(folder: Path, scan: Scan) -> dict[str, Path]:
    """Images of one folder by stem. Notes stems that occur twice, folders in it and files that are no images."""
    found: dict[str, Path] = {}
    other: list[str] = []
    for path in entries(folder):
        if is_folder(path):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                scan.errors.append(f"{path} is a folder with the name of an image. Rename or remove it.")
            else:
                lies_outside(path, f"images must lie in {folder} itself", scan.errors)
        elif not is_text(path.name):
            scan.errors.append(f"the name of {path} is not Unicode. Rename it.")
        elif not is_image(path):
            other += [path.name] * (path.suffix.lower() not in NOTE_SUFFIXES)
        elif path.stem in found:
            scan.errors.append(f"{path} and {found[path.stem].name} have the same stem. Rename or remove one.")
        else:
            found[path.stem] = path
    if other:
        scan.warnings.append(f"{len(other)} files in {folder} are not read as images, for instance {other[0]}")
    return found


def is_text(name: str) -> bool:
    """Whether a name can be written into tables; file systems allow any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def lies_outside(path: Path, expected: str, notes: list[str]) -> None:
    """Note the images at or below a path where the layout has none."""
    found = [path] if is_image(path) else images_below(path) if is_folder(path) else []
    if found:
        more = f" and {len(found) - 1} more there" if len(found) > 1 else ""
        notes.append(f"{found[0]}{more} would not be used: {expected}. Move or remove it.")


def pair_masks(images: dict[str, Path], masks: dict[str, Path], folder: Path, scan: Scan) -> dict[str, Path]:
    """Mask of each stem. Notes images without mask, images with two, and masks without image."""
    left, found = dict(masks), {}
    for stem, path in images.items():
        names = [name for name in (f"{stem}_mask", stem) if name in left]
        if len(names) == 2:
            scan.errors.append(f"{path} has two masks, {masks[names[0]]} and {masks[names[1]].name}. Remove one.")
        elif not names:
            scan.errors.append(f"{path} has no mask: expected {folder}/{stem}_mask.png or {stem}.png.")
        else:
            found[stem] = masks[names[0]]
        for name in names:
            del left[name]
    for path in left.values():
        scan.errors.append(f"mask {path} has no image of its name. Rename or remove it.")
    return found


def scan_split(root: Path, good: str, scan: Scan) -> tuple[list[Sample], list[Sample]]:
    """Training and test samples of the MVTec AD and BTAD layouts, which differ in the name of the good folders."""
    train = [Sample(p) for p in images_in(root / "train" / good, scan).values()]
    test: list[Sample] = []
    truth = root / "ground_truth"
    for path in entries(root / "train"):
        if path.name != good:
            lies_outside(path, f"training images must lie in train/{good}", scan.errors)
    for path in [p for split in ("test", "ground_truth") for p in entries(root / split)]:
        if not is_folder(path):
            lies_outside(path, f"{path.parent.name} holds one folder per kind", scan.errors)
        elif not is_text(path.name):
            scan.errors.append(f"the name of {path} is not Unicode. Rename it.")
    for path in entries(root):
        if path.name not in ("train", "test", "ground_truth"):
            lies_outside(path, "the layout has train, test and ground_truth", scan.warnings)
        elif not is_folder(path):
            scan.errors.append(f"{path} is no folder. Replace or remove it.")
    for kind in sorted({p.name for split in ("test", "ground_truth") for p in entries(root / split) if is_folder(p)}):
        images, folder = images_in(root / "test" / kind, scan), truth / kind
        masks = images_in(folder, scan)
        if kind == good:
            test += [Sample(p) for p in images.values()]
            if masks:
                scan.warnings.append(f"{folder} is not read: images in test/{good} are defect-free")
        elif kind.lower() in (GOOD, "ok"):
            scan.errors.append(f"{root / 'test' / kind} must be called test/{good}, as train/{good} is. Rename it.")
        else:
            paired = pair_masks(images, masks, folder, scan) if is_folder(truth) else {}
            test += [Sample(p, kind, paired.get(stem)) for stem, p in images.items()]
            if not images and not masks:
                scan.warnings.append(f"{root / 'test' / kind} holds no image")
    return train, test


def scan_plain(root: Path, scan: Scan) -> tuple[list[Sample], list[Sample]]:
    """Training and test samples of the plain layout. With ``bad``, every fifth of ``good`` is a test image."""
    if not is_folder(root / GOOD):
        return [Sample(p) for p in images_in(root, scan).values()], []
    for path in entries(root):
        if path.name not in (GOOD, "bad", "masks"):
            notes = scan.warnings if is_folder(path) else scan.errors
            lies_outside(path, f"{root} is read as good/, bad/ and masks/", notes)
    good = [Sample(p) for p in images_in(root / GOOD, scan).values()]
    bad = images_in(root / "bad", scan)
    masks = images_in(root / "masks", scan)
    paired = pair_masks(bad, masks, root / "masks", scan) if is_folder(root / "masks") else {}
    if not bad:
        return good, []
    anomalous = [Sample(p, "bad", paired.get(stem)) for stem, p in bad.items()]
    train = [s for i, s in enumerate(good) if i % HOLD_OUT != HOLD_OUT - 1]
    return train, anomalous + good[HOLD_OUT - 1 :: HOLD_OUT]
