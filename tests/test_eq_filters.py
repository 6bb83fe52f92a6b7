"""filters.py against slow loops written from the docstring, and what a grating, a grey and a moved image must give."""

import cmath
import math

import pytest
import torch

from advit.filters import COLOUR_UNIT, FEATURES, OPPONENT, ORIENTATIONS, SPREAD, WAVELENGTHS, FilterBank, window_rows


def images(size, batch=2, seed=0):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def envelope(size, centre, spread):
    values = [math.exp(-((x - centre) ** 2) / (2 * spread**2)) for x in range(size)]
    return [v / sum(values) for v in values]


def loops(image, grid, row, column):
    """The 15 features of one place of one image ``(3, H, H)``, in float64."""
    size = image.shape[-1]
    pixels = [[[255 * float(image[c, y, x]) for c in range(3)] for x in range(size)] for y in range(size)]
    planes = [[[sum(w * v for w, v in zip(o, p, strict=True)) for p in line] for line in pixels] for o in OPPONENT]
    found = []
    for wavelength in WAVELENGTHS:
        per_place = max(1, round(size / grid / wavelength))
        count = grid * per_place
        for o in range(ORIENTATIONS):
            angle, moduli = math.pi * o / ORIENTATIONS, []
            for i in range(row * per_place, (row + 1) * per_place):
                for j in range(column * per_place, (column + 1) * per_place):
                    cy, cx = (i + 0.5) * size / count - 0.5, (j + 0.5) * size / count - 0.5
                    down, right = (envelope(size, c, 0.56 * wavelength) for c in (cy, cx))
                    response = 0
                    for y in range(size):
                        for x in range(size):
                            phase = ((x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)) / wavelength
                            response += down[y] * right[x] * cmath.exp(2j * math.pi * phase) * planes[0][y][x]
                    moduli.append(abs(response))
            found.append(math.log(1 + sum(moduli) / len(moduli)))
    down, right = (envelope(size, (k + 0.5) * size / grid - 0.5, SPREAD) for k in (row, column))
    means = [sum(down[y] * right[x] * p[y][x] for y in range(size) for x in range(size)) for p in planes]
    return [*found, math.log(1 + means[0]), means[1] / COLOUR_UNIT, means[2] / COLOUR_UNIT]


@pytest.mark.parametrize("size, grid, row, column", [(16, 2, 1, 0), (18, 3, 1, 2)])
def test_every_filter_at_one_place_against_loops(size, grid, row, column):
    x = images(size)
    found = FilterBank(image_size=size, grid=grid)(x)
    assert found.shape == (2, FEATURES, grid, grid)
    assert found[1, :, row, column].tolist() == pytest.approx(loops(x[1], grid, row, column), rel=2e-5, abs=1e-5)


@pytest.mark.parametrize("k", range(len(WAVELENGTHS)))
@pytest.mark.parametrize("o", range(ORIENTATIONS))
def test_a_grating_answers_strongest_in_its_own_channel(k, o):
    """A wave along the direction o, of the amplitude a: its own filter answers a / 2, the envelope's sum being 1."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    angle = math.pi * o / ORIENTATIONS
    wave = torch.cos(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / WAVELENGTHS[k])
    found = FilterBank(image_size=96, grid=6)((0.5 + 0.3 * wave).expand(1, 3, -1, -1))[0, :12]
    inner = found[:, 2:4, 2:4]
    assert (inner.argmax(dim=0) == k * ORIENTATIONS + o).all()
    assert inner[k * ORIENTATIONS + o].expm1().mean().item() == pytest.approx(255 * 0.15, rel=0.03)


def test_a_grey_image_has_no_colour_and_its_own_brightness():
    grey = images(32)[:, :1].expand(-1, 3, -1, -1)
    found = FilterBank(image_size=32, grid=4)(grey)
    assert found[:, 13:].abs().max() < 1e-5
    plain = FilterBank(image_size=32, grid=4)(torch.full((1, 3, 32, 32), 0.4))
    assert plain[0, 12].expm1().tolist() == [pytest.approx([102.0] * 4, rel=1e-4)] * 4


def test_colours_are_opposed_red_to_green_and_yellow_to_blue():
    bank = FilterBank(image_size=32, grid=2)
    red, green, blue = (torch.eye(3)[c].view(1, 3, 1, 1).expand(1, 3, 32, 32) for c in range(3))
    assert bank(red)[0, 13:, 0, 1].tolist() == pytest.approx([127.5 / 60, 63.75 / 60], rel=1e-5)
    assert bank(green)[0, 13:, 0, 1].tolist() == pytest.approx([-127.5 / 60, 63.75 / 60], rel=1e-5)
    assert bank(blue)[0, 13:, 0, 1].tolist() == pytest.approx([0, -127.5 / 60], rel=1e-5, abs=1e-6)


def test_values_move_with_the_image():
    """By whole places, far enough from the border that no envelope is cut."""
    bank, x = FilterBank(image_size=128, grid=8), images(128)
    moved = bank(x.roll((16, -16), (2, 3)))[:, :, 4, 3]
    assert torch.allclose(moved, bank(x)[:, :, 3, 4], atol=1e-4)
    assert (moved - bank(x)[:, :, 4, 3]).abs().max() > 0.05


@pytest.mark.parametrize("grid", [4, 8])
def test_small_images_and_places_have_finite_features(grid):
    bank = FilterBank(image_size=32, grid=grid)
    assert FEATURES == len(WAVELENGTHS) * ORIENTATIONS + 3 == 15
    for x in (images(32, 3), torch.zeros(3, 3, 32, 32), torch.ones(3, 3, 32, 32)):
        found = bank(x)
        assert found.shape == (3, 15, grid, grid) and found.isfinite().all()
    assert (bank(torch.zeros(1, 3, 32, 32)) == 0).all()


def test_windows_sum_to_one_and_lie_in_the_middle_of_equal_parts():
    rows = window_rows(24, 3, 2.0)
    assert rows.real.sum(dim=1).tolist() == pytest.approx([1, 1, 1]) and rows.imag.abs().max() == 0
    assert (rows.real[1] * torch.arange(24)).sum().item() == pytest.approx(11.5)


def test_an_image_does_not_depend_on_its_batch_nor_on_autocast():
    bank, x = FilterBank(image_size=32, grid=4), images(32, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(bank(x)[1:2], bank(x[1:2]), atol=1e-5)
        assert bank(x).dtype == torch.float32
    assert not bank.state_dict()  # nothing is learned, nothing is stored
