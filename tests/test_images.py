"""images.py: every kind of file to the pixels it shows, and every unusable file to an error that names it."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from advit.errors import DataError
from advit.images import check_mask_size, read_image, read_mask, resize_image, resize_mask

RNG = np.random.default_rng(3)
COLOUR = RNG.integers(0, 256, (5, 9, 3), dtype=np.uint8)  # height 5, width 9: a swapped axis shows


def hwc(path):
    """What read_image makes of a file, as (h, w, 3) array."""
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.shape[0] == 3 and image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


def grey(array):
    return np.repeat(array[..., None], 3, axis=2)


# --- images that are read


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "A.PNG"])
def test_rgb_is_read_as_it_is(tmp_path, name):
    Image.fromarray(COLOUR).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    assert np.array_equal(hwc(tmp_path / name), COLOUR)


def test_grey_is_repeated_in_three_channels(tmp_path):
    Image.fromarray(COLOUR[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(hwc(tmp_path / "a.png"), grey(COLOUR[..., 0]))


def test_one_bit_becomes_black_and_white(tmp_path):
    Image.fromarray(COLOUR[..., 0] > 99).save(tmp_path / "a.png")
    assert np.array_equal(hwc(tmp_path / "a.png"), grey(np.where(COLOUR[..., 0] > 99, 255, 0)))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, name):
    values = np.array([[0, 1, 128, 129, 255, 256], [257, 1000, 32767, 32768, 65406, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    expected = [[math.floor(v * 255 / 65535 + 0.5) for v in row] for row in values.tolist()]
    assert expected[0][:4] == [0, 0, 0, 1] and expected[1][2:] == [127, 128, 254, 255]
    assert np.array_equal(hwc(tmp_path / name), grey(np.array(expected)))


def test_dark_16_bit_grey_is_not_stretched(tmp_path):
    Image.fromarray(np.full((2, 3), 2570, dtype=np.uint16)).save(tmp_path / "a.png")
    assert (hwc(tmp_path / "a.png") == 10).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_laid_over_black(tmp_path, mode):
    alpha = RNG.integers(0, 256, (5, 9), dtype=np.uint8)
    alpha[0], alpha[1] = 0, 255
    shown = COLOUR if mode == "RGBA" else grey(COLOUR[..., 0])
    channels = COLOUR if mode == "RGBA" else COLOUR[..., :1]
    Image.fromarray(np.dstack([channels, alpha]), mode).save(tmp_path / "a.png")
    got = hwc(tmp_path / "a.png")
    assert np.abs(got - shown * (alpha[..., None] / 255)).max() <= 1
    assert (got[0] == 0).all() and np.array_equal(got[1], shown[1])  # a hidden colour does not show through


def test_palette_and_palette_with_transparency(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50, 7, 7, 7])
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "clear.png", transparency=1)
    assert hwc(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [200, 100, 50], [7, 7, 7]]]
    assert hwc(tmp_path / "clear.png").tolist() == [[[10, 20, 30], [0, 0, 0], [7, 7, 7]]]


def test_cmyk_becomes_rgb(tmp_path):
    inks = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [255, 0, 0, 0], [0, 255, 255, 0]]], dtype=np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    white, black, cyan, red = [255] * 3, [0] * 3, [0, 255, 255], [255, 0, 0]
    assert hwc(tmp_path / "a.tif").tolist() == [[white, black, cyan, red]]


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(hwc(tmp_path / "a.png"), upright(COLOUR))


def test_a_photo_with_a_preview_behind_it_is_read(tmp_path):
    photo, preview = Image.new("RGB", (16, 8), (200, 30, 60)), Image.new("RGB", (4, 2))
    photo.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "a.jpg") as opened:
        assert opened.format == "MPO" and opened.n_frames == 2
    assert np.abs(hwc(tmp_path / "a.jpg").astype(int) - [200, 30, 60]).max() <= 3


# --- images that are refused, with what the message says


def write_truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def write_pages(path):
    Image.new("L", (4, 4)).save(path, save_all=True, append_images=[Image.new("L", (4, 4), 255)])


REFUSED = {
    "truncated.png": (write_truncated, "cannot decode"),
    "truncated.jpg": (write_truncated, "truncated"),
    "zero.png": (lambda p: p.write_bytes(b""), "the file is empty"),
    "text.png": (lambda p: p.write_text("no picture at all"), "not an image"),
    "gone.png": (lambda p: None, "no such file"),
    "folder.png": (lambda p: p.mkdir(), "is a directory"),
    "link.png": (lambda p: p.symlink_to("nowhere.png"), "no such file"),
    "float.tif": (lambda p: Image.fromarray(np.ones((4, 4), np.float32)).save(p), "Convert it to 8 or 16 bit"),
    "pages.tif": (write_pages, "it holds 2 pages or frames. Save one image per file"),
    "wide.tif": (lambda p: Image.fromarray(np.full((4, 4), 70000, np.int32)).save(p), "70000 to 70000, are not 16 bit"),
}


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("name", REFUSED)
def test_unusable_files_are_data_errors_that_name_the_file(tmp_path, name, read):
    write, expected = REFUSED[name]
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError) as error:
        read(path)
    message = str(error.value)
    assert str(path) in message and expected in message and message.endswith(".")
    assert message.count(str(path)) == 1 and "\n" not in message


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (30, 30)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # Pillow refuses twice as many
    with pytest.raises(DataError, match=r"bomb\.png: .*900 pixels.*Scale it down"):
        read_image(tmp_path / "bomb.png")


def saved_modes(folder):
    """A file of every mode that is read in a way of its own."""
    wide = RNG.integers(0, 65536, (5, 9)).astype(np.uint16)
    clear = np.dstack([COLOUR, RNG.integers(0, 256, (5, 9), dtype=np.uint8)])
    rgb = Image.fromarray(COLOUR)
    palette = rgb.quantize(8)
    pictures = {
        "rgb": rgb, "rgba": Image.fromarray(clear), "grey": rgb.convert("L"), "bits": rgb.convert("1"),
        "wide": Image.fromarray(wide), "palette": palette,
    }  # fmt: skip
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    palette.save(folder / "transparent.png", transparency=3)
    return sorted(folder.glob("*.png"))


@pytest.mark.parametrize("pixels", [1, 9, 20])
def test_large_pictures_are_read_in_strips_with_the_same_result(tmp_path, monkeypatch, pixels):
    """Strips of one row, of one, and of two: 176 million pixels then take 1.5 GB instead of 3."""
    paths = saved_modes(tmp_path)
    assert len(paths) == 7
    whole = [(read_image(p), read_mask(p)) for p in paths]
    monkeypatch.setattr("advit.images.STRIP", pixels)
    for path, (image, mask) in zip(paths, whole, strict=True):
        assert torch.equal(read_image(path), image) and torch.equal(read_mask(path), mask), path.name


def test_a_file_can_be_replaced_after_reading(tmp_path):
    """Nothing of the first reading is kept: neither an open file nor its pixels."""
    for colour in (10, 20):
        Image.new("L", (4, 4), colour).save(tmp_path / "a.png")
        assert (hwc(tmp_path / "a.png") == colour).all()


# --- masks

DEFECT = np.zeros((5, 9), dtype=bool)
DEFECT[1:3, 2:7] = True

MASKS = {
    "0 and 255": DEFECT * np.uint8(255),
    "0 and 1": DEFECT * np.uint8(1),
    "one bit": DEFECT,
    "half": np.where(DEFECT, 128, 127).astype(np.uint8),
    "16 bit": DEFECT * np.uint16(65535),
    "16 bit of 0 and 1": DEFECT * np.uint16(1),
    "red": np.dstack([DEFECT * np.uint8(255), np.zeros((5, 9, 2), np.uint8)]),
    "over transparency": np.dstack([np.full((5, 9, 3), 255, np.uint8), DEFECT * np.uint8(255)]),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind(tmp_path, kind):
    Image.fromarray(MASKS[kind]).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", (5, 9))
    assert mask.dtype == torch.uint8 and np.array_equal(mask.numpy(), DEFECT)


def test_jpeg_ringing_does_not_grow_a_mask(tmp_path):
    big = np.kron(DEFECT, np.ones((16, 16), bool))
    Image.fromarray(big * np.uint8(255)).save(tmp_path / "m.jpg", quality=60)
    assert np.array_equal(read_mask(tmp_path / "m.jpg").numpy(), big)


def test_an_empty_mask_is_read_as_empty(tmp_path):
    Image.new("L", (9, 5)).save(tmp_path / "m.png")
    assert not read_mask(tmp_path / "m.png").any()


def test_a_mask_of_class_numbers_is_refused(tmp_path):
    Image.fromarray(DEFECT * np.uint8(3)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png has values up to 3, neither 0/1 nor 0/255"):
        read_mask(tmp_path / "m.png")


def test_a_mask_of_another_size_names_both_sizes(tmp_path):
    Image.new("L", (9, 5)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png is 9x5 pixels, its image is 10x6"):
        read_mask(tmp_path / "m.png", (6, 10))
    with pytest.raises(DataError):
        check_mask_size(tmp_path / "m.png", (5, 9), (9, 5))


# --- sizes


@pytest.mark.parametrize(("height", "width"), [(40, 60), (23, 17), (16, 16)])
def test_resize_agrees_with_pillow_whatever_the_proportions(height, width):
    array = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = resize_image(torch.from_numpy(array).permute(2, 0, 1), 16)
    pillow = np.asarray(Image.fromarray(array).resize((16, 16), Image.Resampling.BILINEAR))
    assert ours.shape == (3, 16, 16) and ours.dtype == torch.uint8 and ours.is_contiguous()
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1


@pytest.mark.parametrize(("height", "width", "size"), [(12, 20, 5), (9, 7, 21), (90, 64, 32)])
def test_masks_take_the_pixel_nearest_to_the_centre(height, width, size):
    mask = torch.from_numpy(RNG.random((height, width)) > 0.5)
    small = resize_mask(mask, size)
    assert small.dtype == torch.bool and small.shape == (size, size)
    for i in range(size):
        for j in range(size):
            assert small[i, j] == mask[math.floor((i + 0.5) * height / size), math.floor((j + 0.5) * width / size)]


def test_an_8_pixel_defect_keeps_its_area_wherever_it_lies():
    """8 of 900 pixels are 2.28 of 256: two or three a side, 5.18 in the mean over positions, and never none."""
    areas = []
    for shift in range(0, 225):
        mask = torch.zeros(900, 900, dtype=torch.uint8)
        mask[shift : shift + 8, shift : shift + 8] = 1
        areas.append(int(resize_mask(mask, 256).sum()))
    assert set(areas) == {4, 9}
    per_side = np.sqrt(areas).mean()
    assert per_side == pytest.approx(8 * 256 / 900, rel=0.02)
