"""filters.py against slow loops written from the docstring, and what a grating, a grey and a moved image must give."""

import cmath
import math

import pytest
import torch

from advit.filters import (
    COLOUR_UNIT,
    COLOURED,
    OPPONENT,
    ORIENTATIONS,
    SPREADS,
    WAVELENGTH,
    FilterBank,
    feature_count,
    window_rows,
)

LEVELS = 4
FEATURES = feature_count(LEVELS)
TEXTURES = LEVELS * ORIENTATIONS
BRIGHTNESS = TEXTURES + 2  # after the texture of two colours
COLOURS = slice(BRIGHTNESS + 2, None)


def images(size, batch=2, seed=0):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def envelope(size, centre, spread):
    values = [math.exp(-((x - centre) ** 2) / (2 * spread**2)) for x in range(size)]
    return [v / sum(values) for v in values]


def halved(plane):
    """Means of 2 x 2 pixels of a list of rows."""
    half = range(len(plane) // 2)
    return [[sum(plane[2 * i + a][2 * j + b] for a in (0, 1) for b in (0, 1)) / 4 for j in half] for i in half]


def modulus(plane, grid, row, column, angle):
    """Mean modulus of the Gabor response of one direction in one place, at 4 px of the plane as it is given."""
    size = len(plane)
    per_place = max(1, round(size / grid / 4))
    count, moduli = grid * per_place, []
    for i in range(row * per_place, (row + 1) * per_place):
        for j in range(column * per_place, (column + 1) * per_place):
            cy, cx = (i + 0.5) * size / count - 0.5, (j + 0.5) * size / count - 0.5
            down, right = (envelope(size, c, 0.56 * 4) for c in (cy, cx))
            response = 0
            for y in range(size):
                for x in range(size):
                    phase = ((x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)) / 4
                    response += down[y] * right[x] * cmath.exp(2j * math.pi * phase) * plane[y][x]
            moduli.append(abs(response))
    return sum(moduli) / len(moduli)


def loops(image, grid, row, column):
    """The 24 features of one place of one image ``(3, H, H)``, in float64."""
    size, angles = image.shape[-1], [math.pi * o / 4 for o in range(4)]
    pixels = [[[255 * float(image[c, y, x]) for c in range(3)] for x in range(size)] for y in range(size)]
    planes = [[[sum(w * v for w, v in zip(o, p, strict=True)) for p in line] for line in pixels] for o in OPPONENT]
    found, level = [], planes[0]
    for wavelength in (4, 8, 16, 32):
        found += [math.log(1 + modulus(level, grid, row, column, angle)) for angle in angles]
        level = halved(level) if wavelength < 32 else None
    for plane in planes[1:]:
        found.append(math.log(1 + sum(modulus(halved(plane), grid, row, column, angle) for angle in angles) / 4))

    def mean(plane, spread):
        down, right = (envelope(size, (k + 0.5) * size / grid - 0.5, spread) for k in (row, column))
        return sum(down[y] * right[x] * plane[y][x] for y in range(size) for x in range(size))

    found += [math.log(1 + mean(planes[0], spread)) for spread in (4, 16)]
    return found + [mean(plane, spread) / 60 for spread in (4, 16) for plane in planes[1:]]


def test_the_bank_s_constants_are_those_of_its_docstring():
    assert (WAVELENGTH, COLOURED, ORIENTATIONS) == (4, 1, 4)
    assert (SPREADS, COLOUR_UNIT) == ((4, 16), 60)
    assert feature_count(4) == 16 + 2 + 2 + 4 == 24 and feature_count(3) == 20


def test_fewer_levels_leave_out_the_longest_wavelengths_and_change_nothing_else():
    x = images(64)
    three, four = (FilterBank(image_size=64, grid=4, levels=levels)(x) for levels in (3, 4))
    assert torch.equal(three, torch.cat([four[:, : 3 * ORIENTATIONS], four[:, TEXTURES:]], dim=1))


@pytest.mark.parametrize("size, grid, row, column", [(16, 2, 1, 0), (24, 3, 1, 2), (32, 2, 0, 1)])
def test_every_filter_at_one_place_against_loops(size, grid, row, column):
    x = images(size)
    found = FilterBank(image_size=size, grid=grid, levels=LEVELS)(x)
    assert found.shape == (2, FEATURES, grid, grid)
    assert found[1, :, row, column].tolist() == pytest.approx(loops(x[1], grid, row, column), rel=2e-5, abs=1e-5)


def passed(wave, width):
    """What is left of a wave's amplitude in means of ``width`` pixels."""
    return math.sin(math.pi * width * wave) / (width * math.sin(math.pi * wave)) if abs(wave) > 1e-9 else 1


def grating(size, wavelength, angle):
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return torch.cos(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wavelength)


@pytest.mark.parametrize("k", range(LEVELS))
@pytest.mark.parametrize("o", range(ORIENTATIONS))
def test_a_grating_answers_strongest_in_its_own_channel(k, o):
    """A wave along the direction o, of the amplitude a: its own filter answers a / 2, the envelope's sum being 1."""
    wavelength, angle = WAVELENGTH * 2**k, math.pi * o / ORIENTATIONS
    wave = grating(192, wavelength, angle)
    found = FilterBank(image_size=192, grid=6, levels=LEVELS)((0.5 + 0.3 * wave).expand(1, 3, -1, -1))[0, :TEXTURES]
    inner = found[:, 2:4, 2:4]
    assert (inner.argmax(dim=0) == k * ORIENTATIONS + o).all()
    left = passed(math.cos(angle) / wavelength, 2**k) * passed(math.sin(angle) / wavelength, 2**k)
    assert inner[k * ORIENTATIONS + o].expm1().mean().item() == pytest.approx(255 * 0.15 * left, rel=0.03)


@pytest.mark.parametrize("c", [0, 1])
@pytest.mark.parametrize("o", range(ORIENTATIONS))
def test_a_grating_of_one_colour_alone_is_texture_of_that_colour_alone(c, o):
    """Of 8 px; one of four directions answers, so the mean over them is about a quarter of that."""
    angle = math.pi * o / ORIENTATIONS
    change = torch.linalg.inv(torch.tensor(OPPONENT))[:, 1 + c]  # moves this colour by 1, the other two not at all
    x = 0.5 + 0.2 * change[:, None, None] * grating(96, 8.0, angle)
    assert x.min() >= 0 and x.max() <= 1
    bank = FilterBank(image_size=96, grid=6, levels=LEVELS)
    found, plain = (bank(v[None])[0, :, 2:4, 2:4] for v in (x, torch.full_like(x, 0.5)))
    other = [*range(TEXTURES), TEXTURES + 1 - c, BRIGHTNESS, BRIGHTNESS + 1]
    assert torch.allclose(found[other], plain[other], atol=2e-3)
    left = passed(math.cos(angle) / 8, 2) * passed(math.sin(angle) / 8, 2)
    answer = found[TEXTURES + c].expm1().mean().item()
    assert 0.98 < answer / (255 * 0.1 * left / 4) < 1.25  # the neighbouring directions answer a little


def test_a_grey_image_has_no_colour_and_its_own_brightness():
    grey = images(32)[:, :1].expand(-1, 3, -1, -1)
    found = FilterBank(image_size=32, grid=4, levels=LEVELS)(grey)
    assert found[:, TEXTURES:BRIGHTNESS].abs().max() < 2e-4 and found[:, COLOURS].abs().max() < 1e-5
    plain = FilterBank(image_size=32, grid=4, levels=LEVELS)(torch.full((1, 3, 32, 32), 0.4))
    assert plain[0, BRIGHTNESS : BRIGHTNESS + 2].expm1().flatten().tolist() == pytest.approx([102.0] * 32, rel=1e-4)


def test_colours_are_opposed_red_to_green_and_yellow_to_blue():
    bank = FilterBank(image_size=32, grid=2, levels=LEVELS)
    red, green, blue = (torch.eye(3)[c].view(1, 3, 1, 1).expand(1, 3, 32, 32) for c in range(3))
    assert bank(red)[0, COLOURS, 0, 1].tolist() == pytest.approx([127.5 / 60, 63.75 / 60] * 2, rel=1e-5)
    assert bank(green)[0, COLOURS, 0, 1].tolist() == pytest.approx([-127.5 / 60, 63.75 / 60] * 2, rel=1e-5)
    assert bank(blue)[0, COLOURS, 0, 1].tolist() == pytest.approx([0, -127.5 / 60] * 2, rel=1e-5, abs=1e-6)


def test_values_move_with_the_image():
    """By whole places, far enough from the border that no envelope is cut."""
    bank, x = FilterBank(image_size=256, grid=16, levels=LEVELS), images(256)
    moved = bank(x.roll((16, -16), (2, 3)))[:, :, 8, 7]
    assert torch.allclose(moved, bank(x)[:, :, 7, 8], atol=1e-4)
    assert (moved - bank(x)[:, :, 8, 7]).abs().max() > 0.05


@pytest.mark.parametrize("grid", [4, 8])
def test_small_images_and_places_have_finite_features(grid):
    bank = FilterBank(image_size=32, grid=grid, levels=LEVELS)
    for x in (images(32, 3), torch.zeros(3, 3, 32, 32), torch.ones(3, 3, 32, 32)):
        found = bank(x)
        assert found.shape == (3, FEATURES, grid, grid) and found.isfinite().all()
    assert (bank(torch.zeros(1, 3, 32, 32)) == 0).all()


def test_windows_sum_to_one_and_lie_in_the_middle_of_equal_parts():
    rows = window_rows(24, 3, 2.0)
    assert rows.real.sum(dim=1).tolist() == pytest.approx([1, 1, 1]) and rows.imag.abs().max() == 0
    assert (rows.real[1] * torch.arange(24)).sum().item() == pytest.approx(11.5)


def test_an_image_does_not_depend_on_its_batch_nor_on_autocast():
    bank, x = FilterBank(image_size=32, grid=4, levels=LEVELS), images(32, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(bank(x)[1:2], bank(x[1:2]), atol=1e-5)
        assert bank(x).dtype == torch.float32
    assert not bank.state_dict()  # nothing is learned, nothing is stored
