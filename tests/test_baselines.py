"""baselines.py: every floor against a slow loop or a case by hand; images that never vary; a planted defect."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from advit import baselines
from advit.baselines import METHODS, Floor, finished, gabor_bank, gabor_features, greys, moments
from advit.calibration import LEAST_SD

H = 64
TRAINED = [name for name in METHODS if name != "DoG"]


def textures(n: int, seed: int = 0, size: int = H) -> np.ndarray:
    """Images of one aligned object: a fixed pattern, smooth noise of its own in each, ``(n, 3, size, size)`` uint8."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(60, 180, size)[:, None] + 30 * np.sin(np.arange(size) / 3)
    noise = gaussian_filter(rng.normal(size=(n, 3, size, size)), (0, 0, 1.5, 1.5)) * 30
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


def raw(name: str, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The first test image's map as the method scores it, neither resized nor smoothed."""
    score = METHODS[name].fit(greys(train))
    return score(next(greys(test)))


def grey(images: np.ndarray) -> np.ndarray:
    r, g, b = images.astype(np.float64).transpose(1, 0, 2, 3)
    return 0.299 * r + 0.587 * g + 0.114 * b


@pytest.mark.parametrize("name", METHODS)
def test_maps_have_the_shape_of_the_images_and_are_deterministic(name):
    train, test = textures(7), textures(3, seed=1)
    maps = METHODS[name](train, test)
    assert maps.shape == (3, H, H) and maps.dtype == np.float32
    assert np.isfinite(maps).all() and maps.min() >= 0
    assert np.array_equal(maps, METHODS[name](train, test))


@pytest.mark.parametrize("name", METHODS)
def test_images_are_read_once_and_the_order_of_test_images_does_not_matter(name):
    train, test = textures(6), textures(3, seed=1)
    maps = METHODS[name](iter(train), (image for image in test[::-1]))
    assert np.array_equal(maps[::-1], METHODS[name](train, test))


@pytest.mark.parametrize("name", METHODS)
def test_a_planted_defect_has_the_highest_score_and_is_found_where_it_is(name):
    train, test = textures(12), textures(6, seed=1)
    test[4, :, 30:38, 18:26] = 255
    maps = METHODS[name](train, test)
    assert maps.max(axis=(1, 2)).argmax() == 4
    y, x = np.unravel_index(maps[4].argmax(), (H, H))
    assert abs(y - 33.5) <= 5 and abs(x - 21.5) <= 5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [1, 4])
def test_training_images_that_never_vary_divide_by_nothing(name, count):
    train = np.full((count, 3, H, H), 100, dtype=np.uint8)
    test = train[:1].repeat(2, axis=0)
    test[1, :, 20:30, 20:30] = 101
    with np.errstate(all="raise", under="ignore"):
        maps = METHODS[name](train, test)
    assert np.isfinite(maps).all()
    assert maps[0].max() < 1e-3 < maps[1].max() < 100


@pytest.mark.parametrize("name", TRAINED)
def test_no_training_image_is_an_error(name):
    with pytest.raises(ValueError):
        METHODS[name](np.empty((0, 3, H, H), np.uint8), textures(1))


def test_moments_are_mean_and_biased_variance():
    x = np.random.default_rng(0).normal(1e6, 1, size=(9, 4, 5))
    mean, variance, n = moments(x)
    assert n == 9
    assert np.allclose(mean, x.mean(axis=0), rtol=1e-14)
    assert np.allclose(variance, x.var(axis=0), rtol=1e-6)


def test_z_score_equals_a_loop_over_pixels():
    train, test = textures(8), textures(1, seed=1)
    train[:, :, 5, 6] = 77  # a pixel that never varied is judged by the floor
    x, y = grey(train), grey(test)[0]
    floor = max(LEAST_SD * math.sqrt(x.var(axis=0).mean()), 12**-0.5)
    found = raw("z-score", train, test)
    for i, j in [(0, 0), (5, 6), (40, 3), (63, 63)]:
        values = [x[k, i, j] for k in range(8)]
        mean = sum(values) / 8
        sd = max(math.sqrt(sum((v - mean) ** 2 for v in values) / 8), floor)
        assert found[i, j] == pytest.approx(abs(y[i, j] - mean) / sd, rel=1e-4)


def test_z_score_of_difference_of_gaussians_is_the_z_score_of_filtered_images():
    train, test = textures(8), textures(1, seed=1)
    unit = H / 256

    def dog(x):
        return gaussian_filter(x, 2 * unit, mode="nearest") - gaussian_filter(x, 16 * unit, mode="nearest")

    x, y = np.stack([dog(g) for g in grey(train)]), dog(grey(test)[0])
    sd = np.maximum(x.std(axis=0), max(LEAST_SD * math.sqrt(x.var(axis=0).mean()), 12**-0.5))
    assert np.allclose(raw("z-score DoG", train, test), abs(y - x.mean(axis=0)) / sd, rtol=1e-3, atol=1e-4)


def test_difference_of_gaussians_does_not_see_brightness():
    test = textures(1) // 2
    assert np.allclose(raw("DoG", test, test), raw("DoG", test, test + 40), atol=1e-3)
    impulse = np.zeros((1, 3, 256, 256), np.uint8)
    impulse[..., 128, 128] = 200
    centre = 200 / (2 * math.pi) * (1 / 1**2 - 1 / 4**2)  # G(0) = 1 / (2 pi sd^2)
    assert raw("DoG", impulse, impulse)[128, 128] == pytest.approx(centre, rel=0.01)


def test_pca_reconstructs_its_own_training_images_and_equals_a_projection():
    train, test = textures(9), textures(1, seed=1)
    assert raw("PCA", train, train[3:4]).max() < 1e-2  # n - 1 = 8 components hold 9 images
    x = np.stack([[[g[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(32)] for i in range(32)]
                  for g in grey(np.concatenate([train, test]))]).reshape(10, -1)  # fmt: skip
    mean = x[:9].mean(axis=0)
    coefficients, *_ = np.linalg.lstsq((x[:9] - mean).T, x[9] - mean, rcond=None)  # onto the span, by least squares
    rest = x[9] - mean - (x[:9] - mean).T @ coefficients
    assert np.allclose(raw("PCA", train, test).ravel(), abs(rest), atol=1e-2)


def test_pca_keeps_thirty_components_at_most(monkeypatch):
    asked = []

    class Spy(baselines.PCA):
        def __init__(self, n_components, **options):
            asked.append(n_components)
            super().__init__(n_components, **options)

    monkeypatch.setattr(baselines, "PCA", Spy)
    METHODS["PCA"](textures(5), textures(1))
    METHODS["PCA"](textures(40), textures(1))
    assert asked == [4, 30]


def test_gabor_features_equal_a_double_loop_over_pixels():
    image = grey(textures(1, size=32))[0].astype(np.float32)
    found = gabor_features(image, gabor_bank(32))
    assert found.shape == (8, 8, 13)
    waves = [(16, 0.0, 0.0)] + [
        (length, math.sin(a) / length, math.cos(a) / length)
        for length in (4, 8, 16)
        for a in (0, math.pi / 4, math.pi / 2, 3 * math.pi / 4)
    ]
    for i, j, k in [(0, 0, 0), (3, 5, 2), (7, 1, 6), (4, 4, 12), (2, 6, 9)]:
        length, fy, fx = waves[k]
        cy, cx, total, weights = 4 * i + 1.5, 4 * j + 1.5, 0j, 0.0
        for y in range(32):
            for x in range(32):
                weight = math.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * (0.56 * length) ** 2))
                angle = 2 * math.pi * ((y - cy) * fy + (x - cx) * fx)
                total += weight * complex(math.cos(angle), math.sin(angle)) * float(image[y, x])
                weights += weight
        assert found[i, j, k] == pytest.approx(math.log1p(abs(total / weights)), abs=1e-4)


def test_gabor_filter_answers_to_its_own_wave():
    x = np.arange(128)
    stripes = (128 + 100 * np.cos(2 * np.pi * x / 8))[None, :].repeat(128, axis=0).astype(np.float32)
    inside = gabor_features(stripes, gabor_bank(128))[16, 16]
    assert 1 + inside[1:].argmax() == 5  # wavelength 8, vertical stripes
    assert math.expm1(inside[5]) == pytest.approx(50, rel=0.02)  # half of a cosine's amplitude
    assert math.expm1(inside[0]) == pytest.approx(128, rel=0.01)  # the mean


def test_gabor_gaussian_is_a_mahalanobis_distance_with_the_shrinkage_it_states():
    train, test = textures(5), textures(1, seed=1)
    bank = gabor_bank(H)
    f = np.stack([gabor_features(g, bank) for g in greys(train)])
    y = gabor_features(next(greys(test)), bank)
    local = {(i, j): np.cov(f[:, i, j].T, bias=True) for i in range(16) for j in range(16)}
    pooled = sum(local.values()) / len(local)
    found = raw("Gabor Gaussian", train, test)
    for i, j in [(0, 0), (7, 2), (15, 15)]:
        covariance = (5 * local[i, j] + 13 * pooled) / (5 + 13) + 1e-4 * np.eye(13)
        delta = y[i, j] - f[:, i, j].mean(axis=0)
        assert found[i, j] == pytest.approx(math.sqrt(delta @ np.linalg.solve(covariance, delta)), rel=1e-6)


def test_maps_are_upsampled_between_pixel_centres_and_smoothed_in_proportion():
    impulse = np.zeros((64, 64))
    impulse[10, 50] = 1
    found = finished(impulse, 256)
    rows, columns = np.meshgrid(range(256), range(256), indexing="ij")
    assert (found * rows).sum() / found.sum() == pytest.approx(4 * 10 + 1.5, abs=1e-3)
    assert (found * columns).sum() / found.sum() == pytest.approx(4 * 50 + 1.5, abs=1e-3)
    whole = np.zeros((128, 128))
    whole[64, 64] = 1
    assert np.allclose(finished(whole, 128), gaussian_filter(whole, 2), atol=1e-7)


def test_the_names_are_those_of_the_method():
    assert list(METHODS) == ["z-score", "z-score DoG", "PCA", "Gabor Gaussian", "DoG"]
    assert all(isinstance(method, Floor) and method.full_name for method in METHODS.values())


def test_an_image_cache_and_an_array_give_the_same(tiny_mvtec):
    from advit.cache import ImageCache
    from advit.data import open_category

    category = open_category(tiny_mvtec, "part")
    train, test = ImageCache(category.train, H), ImageCache(category.test, H)
    arrays = [np.stack([c[i].numpy() for i in range(len(c))]) for c in (train, test)]
    assert np.array_equal(METHODS["z-score"](train, test), METHODS["z-score"](*arrays))
