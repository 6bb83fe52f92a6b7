"""Which photographs show nearly the same: thumbnails, compared without their brightness, contrast and mean image."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from advit.images import resize_image

THUMBNAIL = 32
PREVIEW = 1024
ALIKE = 0.95  # of two photographs of one part


def thumbnail(image: Tensor) -> np.ndarray:
    """Grey ``(3, h, w)`` at 32 x 32 whatever its proportions, ``(1024,)`` float32, not rounded to grey levels."""
    if image.shape[-2] * image.shape[-1] > PREVIEW**2:
        image = resize_image(image, PREVIEW)  # as bytes, so that a large photo is never held as floats
    grey = image.as_subclass(Tensor).float().mean(dim=0)[None, None]
    return interpolate(grey, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True).flatten().numpy()


def nearest_images(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each test thumbnail, the similarity of the most similar training thumbnail, and which one it is.

    ``u(x) = (x - mean(x)) / |x - mean(x)|`` removes brightness and contrast, so that two exposures of one part are
    still found. The similarity is the cosine of ``u(a) - m`` and ``u(b) - m``, each scaled to length 1 again, with m
    the mean of u over all images. Without m it says little: two different photos of an aligned object share nearly
    everything (cosine 0.9993 in MVTec AD's bottle).

    Args:
        train: ``(m, pixels)``.
        test: ``(n, pixels)``.

    Returns: similarity ``(n,)``, 0 for an image without any contrast, and index ``(n,)`` into ``train``.

    Test: tests/test_similarity.py
    """
    rows = typical_left_out(np.concatenate([train, test]))
    return most_similar(rows[: len(train)], rows[len(train) :])


def lone_images(thumbnails: np.ndarray) -> np.ndarray:
    """Whether none of the other images ``(n, pixels)`` shows nearly the same, ``(n,)`` bool.

    The similarity is that of :func:`nearest_images`, the limit ALIKE. Measured between an image and its nearest one, in
    defect-free training images: bottle 0.66 in the median, 0.82 or less for nine in ten; the synthetic gear 0.81 and
    0.88; magnetic tiles, each photographed in up to six exposures, 0.98, and 0.96 or more for three in four.

    Test: tests/test_similarity.py
    """
    rows = typical_left_out(thumbnails)
    return most_similar(rows, rows, itself=False)[0] <= ALIKE


def most_similar(rows: np.ndarray, to: np.ndarray, itself: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Largest product of every row of ``to`` with one of ``rows``, and which; without ``itself`` not that in its place.

    512 rows of ``to`` at a time.
    """
    value, index = np.empty(len(to)), np.empty(len(to), dtype=int)
    for start in range(0, len(to), 512):
        similar = to[start : start + 512] @ rows.T
        if not itself:
            np.fill_diagonal(similar[:, start:], -1.0)
        part = slice(start, start + len(similar))
        index[part], value[part] = similar.argmax(axis=1), similar.max(axis=1)
    return value, index


def typical_left_out(thumbnails: np.ndarray) -> np.ndarray:
    """Each image's u less their mean, at length 1 again: see :func:`nearest_images`."""
    rows = unit_rows(thumbnails)
    return unit_rows(rows - rows.mean(axis=0))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1; a row without contrast becomes 0."""
    centred = rows.astype(np.float64) - rows.mean(axis=1, keepdims=True, dtype=np.float64)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-6)
