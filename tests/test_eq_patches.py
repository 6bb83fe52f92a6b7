"""patches.py against loops and a hand case. Batch, channel and patch counts differ, so a swapped axis fails."""

import numpy as np
import pytest
import torch

from advit.patches import (
    patch_distances,
    patch_map_to_pixels,
    patchify,
    position_waves,
    squared_patch_distances,
    unpatchify,
)


def test_patchify_takes_rows_then_columns_then_channels():
    b, c, h, p = 2, 3, 8, 4
    images = torch.arange(b * c * h * h, dtype=torch.float64).reshape(b, c, h, h)
    patches = patchify(images, p)
    assert patches.shape == (b, 4, p * p * c)
    for n in range(4):
        top, left = (n // 2) * p, (n % 2) * p
        expected = [images[1, k, top + y, left + x] for y in range(p) for x in range(p) for k in range(c)]
        assert patches[1, n].tolist() == [float(v) for v in expected]


def test_unpatchify_is_the_inverse():
    images = torch.rand(2, 3, 15, 15)
    assert torch.equal(unpatchify(patchify(images, 5), 5, grid=3), images)


def test_distances_are_euclidean_on_the_grid():
    distances = patch_distances(4)
    for i in range(16):
        for j in range(16):
            expected = np.hypot(i // 4 - j // 4, i % 4 - j % 4)
            assert distances[i, j].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("row, column", [(0, 0), (2, 1), (3, 3)])
def test_an_impulse_peaks_at_the_centre_of_its_patch(row, column):
    scores = torch.zeros(1, 4, 4)
    scores[0, row, column] = 1
    pixels = patch_map_to_pixels(scores, 32)[0].double()
    top = (pixels >= pixels.max() - 1e-6).nonzero().double()
    centre = torch.tensor([8 * row + 3.5, 8 * column + 3.5], dtype=torch.float64)
    if 0 < row < 3 and 0 < column < 3:
        assert top.mean(dim=0).tolist() == centre.tolist()
    else:  # an edge patch keeps its value out to the border: the plateau starts at its centre
        assert (top - centre).abs().amax(dim=1).min().item() == 0.5


def test_position_waves_against_loops_and_their_neighbours():
    waves = position_waves(3, 10)  # two wavelengths per axis, the last two columns empty
    row, column = 2, 1
    for k in range(2):
        rate = 10000 ** (-k / 2)
        expected = [np.sin(row * rate), np.cos(row * rate), np.sin(column * rate), np.cos(column * rate)]
        assert waves[row * 3 + column, [k, 2 + k, 4 + k, 6 + k]].tolist() == pytest.approx(expected, abs=1e-6)
    assert waves[:, 8:].abs().max() == 0
    like = position_waves(8, 64) @ position_waves(8, 64).T
    assert like[27, 26] > like[27, 25] > like[27, 24]


def test_squared_distances_of_some_rows_are_those_of_the_whole_grid():
    whole = patch_distances(4).double().square()
    for rows in (slice(0, 16), slice(3, 10), slice(15, 16)):
        assert torch.allclose(squared_patch_distances(16, rows, whole), whole[rows], rtol=1e-6)
