"""The three layouts of a category, each from folders to samples, with everything found wrong in their names.

A category is a folder ROOT/NAME:

- ``mvtec`` (MVTec AD): ``train/good``, ``test/good``, ``test/<defect>``, ``ground_truth/<defect>/<stem>_mask.png``
- ``btad`` (BTAD): ``train/ok``, ``test/ok``, ``test/ko``, ``ground_truth/ko/<stem>.png`` or ``.bmp``
- ``folder``: images in ROOT/NAME itself, all defect-free; or in ROOT/NAME/good, and anomalous ones in ROOT/NAME/bad
  with masks, if any, in ROOT/NAME/masks. Where there is a ``bad``, every fifth of ``good`` is held out for testing.

Masks may be called ``<stem>_mask`` or ``<stem>`` everywhere, and belong to the image of that stem in the folder of
the same defect. Files are taken in the order of their names, whatever order the file system lists them in.
"""

from __future__ import annotations

from pathlib import Path

from advit.errors import DataError
from advit.listing import IMAGE_SUFFIXES, entries, images_below, is_folder, is_image, is_text
from advit.samples import GOOD, Sample, Scan

NOTE_SUFFIXES = frozenset({".txt", ".md", ".json", ".csv", ".db", ".ini"})
HOLD_OUT = 5


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


def lies_outside(path: Path, expected: str, notes: list[str]) -> None:
    """Note the images at or below a path where the layout has none."""
    found = [path] if is_image(path) else images_below(path) if is_folder(path) else []
    if found:
        more = f" and {len(found) - 1} more there" if len(found) > 1 else ""
        notes.append(f"{found[0]}{more} would not be used: {expected}. Move or remove it.")
