"""A validation set out of defect-free training images alone: some are held out, and defects are pasted on them.

Nothing that is chosen may be chosen on test images. This set stands in for them: whatever a model gains here, it gains
on defects that no test set holds. Six kinds, each of random size, place and strength:

- ``transplant``: a piece of another training image, turned, scaled, lighter or darker (Li et al. 2021, CutPaste);
- ``cloud``: fractal noise in a colour of its own (Zavrtanik et al. 2021, DRAEM, with noise for a texture);
- ``scratch``: a thin line, lighter or darker;
- ``stain``: a soft spot, lighter or darker;
- ``shade``: a large place that is a little lighter or darker;
- ``smear``: the place is blurred, as where a texture or a part is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm.auto import tqdm

from advit.data import data_digest
from advit.errors import DataError
from advit.files import exclusive
from advit.images import read_image, resize_image
from advit.layouts import HOLD_OUT
from advit.samples import Category
from advit.similarity import lone_images, thumbnail

AREA = (0.001, 0.4)  # share of the image that a defect covers; a draw outside is drawn again
VISIBLE = 8.0  # grey levels: a smaller change is no defect
SPECK = 1e-4  # share of the image: a smaller piece of a defect is left unmarked
GAP = 3  # px: gaps in a defect up to twice as wide are closed
DRAWS = 40
MADE = "pasted2"  # another name wherever the same images would give other files
PASTED_SIZE = 256  # px of the side, unless asked otherwise
MOST_HELD = 40  # images: more would only cost time
LEAST_SPREAD = 10.0  # grey levels: strength is in units of the image's sd, which is taken to be no smaller

Paste = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]  # image, another image, generator


def fractal_noise(size: int, coarsest: float, rng: np.random.Generator) -> np.ndarray:
    """Sum of smoothed white noise, each octave half as wide and half as strong; ``(size, size)``, mean 0, sd 1."""
    total = np.zeros((size, size))
    for octave in range(4):
        sigma = coarsest / 2**octave
        noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), sigma, mode="wrap")
        total += noise / noise.std() / 2**octave
    return (total - total.mean()) / total.std()


def region(size: int, rng: np.random.Generator, smallest: float = 0.02, largest: float = 0.25) -> np.ndarray:
    """Cover in [0, 1] of an irregular spot, ``(size, size, 1)``: an ellipse with a ragged rim.

    ``smallest`` and ``largest``: limits of its radius as a share of the image's side.
    """
    radius = size * np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    stretch, angle = rng.uniform(1, 2.2), rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size] - rng.uniform(0.1 * size, 0.9 * size, 2)[:, None, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = np.hypot(along / stretch, across * stretch) / radius
    rim = 1 + 0.25 * fractal_noise(size, max(radius / 2, 1.0), rng)
    return np.clip((rim - distance) * radius / 1.5 + 0.5, 0, 1)[..., None]


def strength(image: np.ndarray, rng: np.random.Generator, low: float, high: float) -> float:
    """A signed change in grey levels: between ``low`` and ``high`` sd of the image."""
    return rng.choice([-1, 1]) * rng.uniform(low, high) * max(image.std(), LEAST_SPREAD)


def colour(rng: np.random.Generator) -> np.ndarray:
    """Factors of the channels: grey in half of the draws."""
    return np.ones(3) if rng.random() < 0.5 else rng.uniform(0.2, 1, 3)


def transplant(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A region of another image, turned, scaled, moved and made lighter or darker."""
    angle, scale = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(-1.1, 1.1))
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = rng.uniform(0, len(image), 2)
    moved = np.stack(
        [ndimage.affine_transform(c, matrix, offset, order=1, mode="mirror") for c in np.moveaxis(other, -1, 0)], -1
    )
    moved = moved + rng.choice([0, 1]) * strength(image, rng, 0.3, 1.5) * colour(rng)
    return image + region(len(image), rng) * (moved - image)


def cloud(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fractal noise around a shifted mean."""
    size = len(image)
    noise = fractal_noise(size, size * np.exp(rng.uniform(np.log(0.004), np.log(0.03))), rng)[..., None]
    change = strength(image, rng, 0.5, 2.5) * colour(rng) + noise * strength(image, rng, 0.5, 2.0) * colour(rng)
    return image + region(size, rng) * change


def scratch(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A bent line, 1 to 4 px wide at 256, that fades in and out."""
    size = len(image)
    length, angle, bend = size * rng.uniform(0.05, 0.45), rng.uniform(0, 2 * np.pi), rng.normal(0, 1.2)
    t = np.linspace(-0.5, 0.5, 4 * size)
    direction = angle + bend * t
    path = np.cumsum(np.stack([np.sin(direction), np.cos(direction)]), axis=1) * length / len(t)
    path += rng.uniform(0.15 * size, 0.85 * size, 2)[:, None] - path.mean(axis=1, keepdims=True)
    row, column = np.round(path).astype(int)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    line = np.zeros((size, size))
    line[row[inside], column[inside]] = (0.6 + 0.4 * np.cos(2 * np.pi * t * rng.uniform(0.5, 2)))[inside]
    width = size / 256 * rng.uniform(0.4, 2)
    cover = ndimage.gaussian_filter(line, width)[..., None]
    return image + cover / max(cover.max(), 1e-9) * strength(image, rng, 1, 4) * colour(rng)


def stain(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A spot with soft edges, lighter or darker."""
    cover = ndimage.gaussian_filter(region(len(image), rng)[..., 0], len(image) * rng.uniform(0.004, 0.02))
    return image + cover[..., None] * strength(image, rng, 0.5, 2.5) * colour(rng)


def shade(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A large place is a little lighter or darker, with a wide soft edge."""
    size = len(image)
    cover = ndimage.gaussian_filter(region(size, rng, 0.12, 0.4)[..., 0], size * rng.uniform(0.02, 0.06))
    return image + cover[..., None] * strength(image, rng, 0.4, 1.2) * colour(rng)


def smear(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A blurred place."""
    blur = len(image) * rng.uniform(0.01, 0.04)
    smooth = ndimage.gaussian_filter(image, (blur, blur, 0), mode="nearest")
    return image + region(len(image), rng) * (smooth - image)


KINDS: dict[str, Paste] = {f.__name__: f for f in (transplant, cloud, scratch, stain, shade, smear)}


def marked(changed: np.ndarray) -> np.ndarray:
    """Mask of a defect from the pixels ``(h, h)`` it changed: gaps closed, specks dropped."""
    closed = ndimage.binary_closing(np.pad(changed, GAP), iterations=GAP)[GAP:-GAP, GAP:-GAP] | changed
    regions, _ = ndimage.label(closed, np.ones((3, 3)))
    return closed & (np.bincount(regions.ravel()) > SPECK * closed.size)[regions]


def paste(
    kind: str, image: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An image ``(h, h, 3)`` uint8 with a defect, and its mask ``(h, h)`` bool: where it visibly changed.

    Specks are not marked. Draws again while the mask's area is not within AREA; where no draw is (a smear on a plain
    image leaves no trace) a stain takes its place.

    Raises:
        DataError: if no draw at all succeeds.

    Test: tests/test_pasted.py
    """
    source, donor = image.astype(float), other.astype(float)
    for draw in range(2 * DRAWS):
        changed = np.clip(KINDS[kind if draw < DRAWS else "stain"](source, donor, rng), 0, 255).round()
        mask = marked(np.abs(changed - source).max(axis=-1) >= VISIBLE)
        if AREA[0] <= mask.mean() <= AREA[1]:
            return changed.astype(np.uint8), mask
    raise DataError(f"{2 * DRAWS} draws of {kind} on an image were all too small or too large to be a defect.")


def paste_category(
    category: Category, out: Path, *, size: int = PASTED_SIZE, seed: int = 0, progress: bool = True
) -> Path:
    """Write the validation set of a category in the layout of MVTec AD to ``out / category.name``; returns that folder.

    Every fifth training image is held out (of more than 200, 40): once as it is (``test/good``), once with each kind
    of defect (``test/<kind>``, mask in ``ground_truth``); the others are ``train/good``. All are ``size`` pixels
    square. The category's test images are not opened. The same seed gives the same files.

    An image of which another one shows nearly the same (:func:`advit.similarity.lone_images`) is not held out, or a
    model that learns images by heart would be flattered; unless fewer than ten would be left to choose from.

    Args:
        out: a folder; ``out / category.name`` must not exist yet.

    Raises:
        DataError: with fewer than ten training images, or if the folder exists.

    Test: tests/test_pasted.py
    """
    count, folder = len(category.train), out / category.name
    if count < 2 * HOLD_OUT:
        raise DataError(f"{category.root} has {count} training images; a validation set needs {2 * HOLD_OUT}.")
    if folder.exists():
        raise DataError(f"{folder} exists. Remove it, or write elsewhere.")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)

    def image(index: int) -> np.ndarray:
        return resize_image(read_image(category.train[index].path), size).permute(1, 2, 0).numpy()

    def save(pixels: np.ndarray, *where: str) -> None:
        path = part.joinpath(*where)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=1)

    pictures = (thumbnail(read_image(s.path)) for s in category.train)
    bar = tqdm(pictures, total=count, desc=f"compare {category.name}", unit="image", disable=not progress)
    alone = np.flatnonzero(lone_images(np.stack(list(bar)))).tolist()
    candidates = alone if len(alone) >= 2 * HOLD_OUT else range(count)
    held = candidates[HOLD_OUT - 1 :: max(HOLD_OUT, len(candidates) // MOST_HELD)][:MOST_HELD]
    kept = sorted(set(range(count)) - set(held))
    for i in tqdm(range(count), desc=f"paste on {category.name}", unit="image", disable=not progress):
        name = f"{i:04d}.png"
        if i not in held:
            save(image(i), "train", "good", name)
            continue
        sound = image(i)
        save(sound, "test", "good", name)
        for k, kind in enumerate(KINDS):
            rng = np.random.default_rng([seed, i, k])
            pixels, mask = paste(kind, sound, image(int(rng.choice(kept))), rng)
            save(pixels, "test", kind, name)
            save(mask.astype(np.uint8) * 255, "ground_truth", kind, f"{i:04d}_mask.png")
    part.rename(folder)
    return folder


def pasted_root(
    category: Category, store: Path, *, size: int = PASTED_SIZE, seed: int = 0, progress: bool = True
) -> Path:
    """Root of the validation set of a category, made once under ``store`` and found again by content.

    Test: tests/test_pasted.py
    """
    digest = data_digest(Category(category.name, category.root, category.layout, category.train, ()))
    root = store / f"{MADE}-{size}px-seed{seed}-{digest[:10]}"
    with exclusive(store / f".{root.name}.lock"):
        if not (root / category.name).exists():
            paste_category(category, root, size=size, seed=seed, progress=progress)
    return root
