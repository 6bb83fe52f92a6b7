"""Classical floors: what any trained model must beat. They take seconds, and no network.

Five families. They were picked with test scores of bottle, magnetic tile and hazelnut_toy in view, so they are slightly
optimistic there; every setting within them was fixed before the first test image was scored:

- ``z-score``: distance of a grey value from its training mean at the same pixel, in training standard deviations;
- ``z-score DoG``: the same of a difference of Gaussians, which is blind to slow changes of brightness;
- ``PCA``: what principal components of whole training images cannot reconstruct;
- ``Gabor Gaussian``: Mahalanobis distance of Gabor features from their training distribution at the same position;
- ``DoG``: difference of Gaussians of the test image alone, without any training.

Lengths are pixels at 256 px and scale with the image, except the Gabor filters, which live on the pixel raster.
Images are read one at a time, so memory is that of the maps; only PCA holds its training images, grey at half size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter, zoom
from sklearn.decomposition import PCA

from advit.calibration import LEAST_SD

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
SMOOTHING = 4.0  # px at 256
COMPONENTS = 30
ROUNDING = 12**-0.5  # sd of rounding to whole grey levels: less than that is never judged
STRIDE = 4  # px from one Gabor position to the next: a 64 x 64 grid at 256 px
WAVELENGTHS = (4.0, 8.0, 16.0)  # px
ORIENTATIONS = 4
LEAST_CHANGE = 0.01  # sd of a logarithmic Gabor feature: a change of one percent is never judged

Scorer = Callable[[np.ndarray], np.ndarray]  # grey (H, H) to a raw map (h, h), h <= H, high where abnormal


@dataclass(frozen=True)
class Floor:
    """A method: what it is called in full, and how it learns a scorer from grey training images."""

    full_name: str
    fit: Callable[[Iterable[np.ndarray]], Scorer]

    def __call__(self, train: Iterable[ArrayLike], test: Iterable[ArrayLike]) -> np.ndarray:
        """Anomaly maps ``(m, H, H)`` float32 of the test images, high where abnormal, >= 0.

        Every map is brought to H by bilinear interpolation between pixel centres, then smoothed by a Gaussian of sd
        4 px at 256. The image score is a map's maximum, ``maps.max(axis=(1, 2))``.

        Args:
            train: defect-free images, uint8 ``(3, H, H)`` each: an array, an ImageCache, or an iterator read once.
            test: as ``train``, of the same H.

        Test: tests/test_baselines.py
        """
        score = self.fit(greys(train))
        maps = [finished(score(grey), grey.shape[0]) for grey in greys(test)]
        return np.stack(maps) if maps else np.empty((0, 0, 0), dtype=np.float32)


def greys(images: Iterable[ArrayLike]) -> Iterator[np.ndarray]:
    """Grey values 0.299 R + 0.587 G + 0.114 B of images ``(3, H, H)``, one at a time: ``(H, H)`` float32, 0...255."""
    for image in images:
        yield np.tensordot(LUMA, np.asarray(image, dtype=np.float32), axes=1)


def finished(raw: np.ndarray, size: int) -> np.ndarray:
    """A raw map ``(h, h)`` at ``(size, size)``, smoothed; float32."""
    # grid_mode: pixel centres, not corner pixels, stay where they are.
    up = zoom(raw, size / raw.shape[0], order=1, mode="nearest", grid_mode=True) if len(raw) != size else raw
    return gaussian_filter(up.astype(np.float32), SMOOTHING * size / 256, mode="nearest")


def moments(values: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean and (biased) variance over arrays of one shape, element by element, and their number; float64.

    Welford's update: one pass, and no difference of two large sums.

    Raises:
        ValueError: if there are none.
    """
    n, mean, total = 0, np.zeros(()), np.zeros(())
    for value in values:
        n += 1
        delta = value - mean
        mean = mean + delta / n
        total = total + delta * (value - mean)
    if n == 0:
        raise ValueError("a floor needs at least one training image.")
    return mean, total / n, n


def difference_of_gaussians(grey: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """G(fine) * x - G(coarse) * x of a grey image ``(H, H)``; both sd in pixels at 256, scaled with H."""
    unit = grey.shape[0] / 256
    return gaussian_filter(grey, fine * unit, mode="nearest") - gaussian_filter(grey, coarse * unit, mode="nearest")


def fit_z_score(train: Iterable[np.ndarray], features: Scorer = np.asarray) -> Scorer:
    """z = abs(f(x) - mean) / sd at each pixel, mean and sd over the training images.

    Chosen: sd is at least LEAST_SD of the pooled sd sqrt(mean over pixels of the variance), the same rule as for the
    maps of the network, and at least what rounding to bytes alone causes: an image that never varied divides by that.
    """
    mean, variance, _ = moments(features(grey) for grey in train)
    sd = np.maximum(np.sqrt(variance), max(LEAST_SD * np.sqrt(variance.mean()), ROUNDING))
    return lambda grey: np.abs(features(grey) - mean) / sd


def fit_pca(train: Iterable[np.ndarray]) -> Scorer:
    """abs(x - reconstruction) of the image at half size from k = min(30, n - 1) principal components of n images.

    Chosen: a full singular value decomposition, so nothing is random.
    """
    rows = np.stack([halved(grey).ravel() for grey in train])
    mean, k = rows.mean(axis=0), min(COMPONENTS, len(rows) - 1)
    # Of a single image, and of images that are all alike, only the mean is known.
    varied = k > 0 and (np.ptp(rows, axis=0) > 0).any()
    basis = PCA(k, svd_solver="full").fit(rows).components_ if varied else np.zeros((0, len(mean)), rows.dtype)

    def score(grey: np.ndarray) -> np.ndarray:
        small = halved(grey)
        rest = small.ravel() - mean
        return np.abs(rest - basis.T @ (basis @ rest)).reshape(small.shape)

    return score


def halved(grey: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row and column are left out."""
    h = grey.shape[0] // 2
    return grey[: 2 * h, : 2 * h].reshape(h, 2, h, 2).mean(axis=(1, 3))


def gabor_rows(size: int, wavelength: float, wave: float) -> np.ndarray:
    """A one-dimensional Gabor filter at every grid position: complex ``(G, size)``, G = size / STRIDE.

    Row i: exp(-(x - c_i)^2 / (2 s^2)) exp(2 pi i (x - c_i) wave), over the sum of the envelope, c_i the centre of the
    i-th cell, s = 0.56 wavelength (a bandwidth of one octave). At the border the envelope is cut and normalised again.
    """
    grid = max(1, size // STRIDE)
    centre = (np.arange(grid) + 0.5) * size / grid - 0.5
    away = np.arange(size) - centre[:, None]
    envelope = np.exp(-0.5 * (away / (0.56 * wavelength)) ** 2)
    return envelope / envelope.sum(axis=1, keepdims=True) * np.exp(2j * np.pi * away * wave)


def gabor_bank(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Filters as pairs of matrices ``(13, G, size)``: a filter's responses on the grid are A X B^T.

    One Gaussian mean of the longest wavelength, then 3 wavelengths x 4 orientations. The envelope is round, so each
    two-dimensional filter is a product of two one-dimensional ones.
    """
    waves = [(WAVELENGTHS[-1], 0.0, 0.0)]
    for wavelength in WAVELENGTHS:
        angles = np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
        waves += [(wavelength, np.sin(a) / wavelength, np.cos(a) / wavelength) for a in angles]
    vertical = np.stack([gabor_rows(size, length, fy) for length, fy, _ in waves])
    horizontal = np.stack([gabor_rows(size, length, fx) for length, _, fx in waves])
    return vertical.astype(np.complex64), horizontal.astype(np.complex64)


def gabor_features(grey: np.ndarray, bank: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """log(1 + modulus of the response) of each filter at each grid position, ``(G, G, 13)``."""
    vertical, horizontal = bank
    half = vertical.real @ grey + 1j * (vertical.imag @ grey)  # the image is real: two products, not four
    return np.moveaxis(np.log1p(np.abs(half @ horizontal.swapaxes(1, 2))), 0, -1).astype(np.float64)


def fit_gabor_gaussian(train: Iterable[np.ndarray]) -> Scorer:
    """Mahalanobis distance sqrt((f - m)^T C^-1 (f - m)) of Gabor features f (F = 13) at each position of the grid.

    C = (n C_position + F C_pooled) / (n + F) + 0.01^2 I: the covariance of n training images at the position, shrunk
    towards the mean covariance of all positions.

    Chosen: the shrinkage, the posterior mean under an inverse Wishart prior worth F images, needs no tuning and
    holds for one image as for a thousand.
    """
    bank: list[tuple[np.ndarray, np.ndarray]] = []

    def features(grey: np.ndarray) -> np.ndarray:
        if not bank:
            bank.append(gabor_bank(grey.shape[0]))
        return gabor_features(grey, bank[0])

    n, mean, total = 0, np.zeros(()), np.zeros(())
    for f in map(features, train):
        n += 1
        delta = f - mean
        mean = mean + delta / n
        total = total + delta[..., :, None] * (f - mean)[..., None, :]  # Welford's update, as in moments
    if n == 0:
        raise ValueError("a floor needs at least one training image.")
    size = mean.shape[-1]
    pooled = total.mean(axis=(0, 1)) / n
    covariance = (total + size * pooled) / (n + size) + LEAST_CHANGE**2 * np.eye(size)
    precision = np.linalg.inv(covariance)

    def score(grey: np.ndarray) -> np.ndarray:
        delta = features(grey) - mean
        squared = (np.matmul(precision, delta[..., None])[..., 0] * delta).sum(axis=-1)
        return np.sqrt(np.maximum(squared, 0))

    return score


def fit_z_score_dog(train: Iterable[np.ndarray]) -> Scorer:
    """The z-score of a difference of Gaussians of 2 and 16 px."""
    return fit_z_score(train, lambda grey: difference_of_gaussians(grey, 2, 16))


def fit_dog(train: Iterable[np.ndarray]) -> Scorer:
    """abs(difference of Gaussians of 1 and 4 px); training images are not looked at."""
    return lambda grey: np.abs(difference_of_gaussians(grey, 1, 4))


METHODS: dict[str, Floor] = {
    "z-score": Floor("per-pixel z-score of grey values", fit_z_score),
    "z-score DoG": Floor("per-pixel z-score of a difference of Gaussians, 2 and 16 px", fit_z_score_dog),
    "PCA": Floor("reconstruction error of a principal component analysis of whole images", fit_pca),
    "Gabor Gaussian": Floor("per-position Gaussian of Gabor features", fit_gabor_gaussian),
    "DoG": Floor("difference of Gaussians, 1 and 4 px, without training", fit_dog),
}
