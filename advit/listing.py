"""Names of files and folders: sorted, without hidden ones, and with an error where a folder cannot be listed."""

from __future__ import annotations

import os
from pathlib import Path

from advit.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


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


def is_text(name: str) -> bool:
    """Whether a name can be written into tables; file systems allow any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
