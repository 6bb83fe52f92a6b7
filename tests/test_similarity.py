"""similarity.py: photographs of one part are told from photographs of others."""

import numpy as np
import pytest

from advit.similarity import ALIKE, lone_images, nearest_images


def test_nearest_images_against_loops():
    rng = np.random.default_rng(1)
    common = rng.normal(0, 30, 50)
    train, test = (100 + common + rng.normal(0, 5, (n, 50)) for n in (7, 4))

    def unit(v):
        v = [x - sum(v) / len(v) for x in v]
        length = sum(x * x for x in v) ** 0.5
        return [x / length for x in v]

    units = [unit(v) for v in (*train.tolist(), *test.tolist())]
    mean = [sum(column) / len(units) for column in zip(*units, strict=True)]
    units = [unit([x - m for x, m in zip(u, mean, strict=True)]) for u in units]
    similarity, index = nearest_images(train, test)
    for n, u in enumerate(units[7:]):
        expected = [sum(x * y for x, y in zip(u, t, strict=True)) for t in units[:7]]
        assert similarity[n] == pytest.approx(max(expected)) and index[n] == int(np.argmax(expected))


def test_nearest_images_in_several_blocks():
    train = np.random.default_rng(2).random((3, 20))
    test = np.random.default_rng(3).random((1100, 20))
    test[[0, 600, 1099]] = 2 * train + 1
    similarity, index = nearest_images(train, test)
    assert similarity.shape == index.shape == (1100,)
    assert index[[0, 600, 1099]].tolist() == [0, 1, 2] and np.allclose(similarity[[0, 600, 1099]], 1)


def test_images_without_contrast_are_no_duplicates():
    similarity, _ = nearest_images(np.full((3, 16), 7.0), np.full((2, 16), 9.0))
    assert similarity.tolist() == [0, 0]


def test_a_photograph_is_alone_if_no_other_is_nearly_the_same_in_whatever_light():
    """600 parts, in blocks of 512; two are photographed twice, one of them in another light, with noise."""
    rng = np.random.default_rng(4)
    common = rng.normal(0, 30, 64)
    parts = 100 + common + rng.normal(0, 5, (600, 64))
    again = np.stack([parts[3], 0.6 * parts[590] + 20 + rng.normal(0, 0.1, 64)])
    alone = lone_images(np.concatenate([parts, again]))
    assert np.flatnonzero(~alone).tolist() == [3, 590, 600, 601]


def test_the_limit_by_hand():
    """Three rows of mean 0 some 120 degrees apart, and a fourth that is the first, brighter."""
    flat = np.stack([[np.cos(a), np.sin(a), -np.cos(a) - np.sin(a)] for a in (0.3, 2.4, 4.5)])
    assert lone_images(flat).all()
    near = np.concatenate([flat, flat[:1] + 0.05])
    assert lone_images(near).tolist() == [False, True, True, False] and 0 < ALIKE < 1
    assert lone_images(np.full((3, 16), 7.0)).all()  # without contrast
