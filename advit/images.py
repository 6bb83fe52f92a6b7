"""One image or mask file to a tensor, with Pillow. Whatever is wrong with the file is a DataError that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from advit.errors import DataError
from advit.files import require_regular
from advit.vision import tv_tensors, v2

WIDE_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
FULL_RANGE = 65535
STRIP = 2**22  # pixels
# By content, whatever the name says. Pillow knows more, some with other programs' help (PostScript starts Ghostscript).
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")


@contextmanager
def decoded(path: Path) -> Iterator[Image.Image]:
    """The decoded picture, upright (EXIF orientation applied), for the length of a ``with`` block.

    Raises:
        DataError: for anything that goes wrong in the block, several pages, floating-point values, other formats.
    """
    try:
        require_regular(path)
        # Of a path Pillow maps plain TIFF into memory, and then misreads grey ones that are to be shown turned.
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
            # A JPEG of a phone may carry previews after the photo (MPO). Elsewhere one file is one image.
            pages = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if pages != 1:
                raise DataError(f"cannot use {path}: it holds {pages} pages or frames. Save one image per file.")
            picture.load()
            if picture.mode.startswith("F"):
                raise DataError(f"cannot use {path}: it holds floating-point values. Convert it to 8 or 16 bit.")
            ImageOps.exif_transpose(picture, in_place=True)
            yield picture
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"cannot decode {path}: {error}. Scale it down or remove it.") from error
    except Exception as error:  # decoders meet arbitrary bytes with errors of any type
        raise DataError(f"cannot decode {path}: {reason(path, error)}. Re-export or remove it.") from error


def strips(picture: Image.Image) -> Iterator[Image.Image]:
    """The picture in pieces of some million pixels, from the top: what is made of one needs little memory."""
    width, height = picture.size
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        yield picture if rows >= height else picture.crop((0, top, width, min(top + rows, height)))


def reason(path: Path, error: Exception) -> str:
    """Why a file could not be decoded, in a few words and without the library's repetition of the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if "cannot identify" in str(error):
        return "not an image, or of a kind its name does not say"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def grey16(picture: Image.Image) -> np.ndarray:
    """Values of a 16-bit grey picture, ``(h, w)`` int64 in 0...65535. Raises ValueError if some lie outside."""
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > FULL_RANGE:
        raise ValueError(f"its values, {values.min()} to {values.max()}, are not 16 bit")
    return values


def rgb(picture: Image.Image) -> np.ndarray:
    """``(h, w, 3)`` uint8 of a picture in any mode; see ``read_image`` for the rules."""
    if picture.mode in WIDE_MODES:
        values = (grey16(picture) * 255 + FULL_RANGE // 2) // FULL_RANGE
        return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def read_image(path: Path) -> tv_tensors.Image:
    """Decode an image to ``(3, h, w)`` uint8 in its own size.

    Grey is repeated in the three channels. 16-bit grey keeps its full range, ``round(v * 255 / 65535)``, never
    clipped and never stretched to the values that occur, so that two images stay comparable (16-bit colour is cut to
    its high bytes by Pillow). Transparent pixels are laid over black, whatever colour hides under them. Palettes and
    CMYK become RGB; colour profiles are ignored. EXIF orientation is applied, so pixels stand as viewers show them.

    Raises:
        DataError: if the file is empty, cut off, no image, of several pages, of floating-point values, or so large
            that Pillow takes it for a decompression bomb (above 179 million pixels).

    Differs: the public code decodes with OpenCV or Pillow by data set and fails or misreads beyond 8-bit RGB.

    Test: tests/test_images.py
    """
    with decoded(path) as picture:
        image, top = torch.empty(3, picture.height, picture.width, dtype=torch.uint8), 0
        for strip in strips(picture):
            image[:, top : top + strip.height] = torch.from_numpy(rgb(strip)).permute(2, 0, 1)
            top += strip.height
    return tv_tensors.Image(image)


def mask_values(picture: Image.Image) -> np.ndarray:
    """``(h, w)`` uint8 or uint16 of a mask in any mode; see ``read_mask`` for the rules."""
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8)
    if picture.mode == "L" and not picture.has_transparency_data:
        return np.asarray(picture)
    return grey16(picture).astype(np.uint16) if picture.mode in WIDE_MODES else rgb(picture).max(axis=2)


def read_mask(path: Path, image_size: tuple[int, int] | None = None) -> tv_tensors.Mask:
    """Decode a mask to ``(h, w)`` uint8 of 0 (defect-free) and 1 (defect).

    The value of a pixel is its grey value, or the largest of its colour channels (over black where transparent).
    Masks that hold only 0 and 1 are taken as they are; else a pixel is a defect at half the range or more: 128 of
    255, 32768 of 65535 (when values above 255 occur). A mask with other small values, such as class numbers, would
    come out empty without a word and is refused.

    Raises:
        DataError: as ``read_image``; if the size is not ``image_size`` (h, w); if values are neither 0/1 nor 0/255.

    Differs: the public code counts every interpolated value above 0 as defect, which grows small defects.

    Test: tests/test_images.py
    """
    with decoded(path) as picture:
        values = np.concatenate([mask_values(strip) for strip in strips(picture)])
    if image_size is not None:
        check_mask_size(path, values.shape, image_size)
    top = int(values.max())
    if top <= 1:
        defect = values > 0
    else:
        half = 128 if top <= 255 else 32768
        defect = values >= half
        if top < half:
            raise DataError(f"mask {path} has values up to {top}, neither 0/1 nor 0/255. Save defects as 255.")
    return tv_tensors.Mask(torch.from_numpy(defect.astype(np.uint8)))


def check_mask_size(path: Path, mask_size: tuple[int, ...], image_size: tuple[int, ...]) -> None:
    """Raise DataError if the mask's ``(h, w)`` is not its image's."""
    if tuple(mask_size) != tuple(image_size):
        (h, w), (height, width) = mask_size, image_size
        raise DataError(
            f"mask {path} is {w}x{h} pixels, its image is {width}x{height}. Export the mask in the image's size."
        )


def resize_image(image: Tensor, size: int) -> Tensor:
    """Scale ``(3, h, w)`` uint8 to ``(3, size, size)`` uint8, bilinear with antialiasing; nothing is cropped.

    Differs: the public code resizes to 550 and crops 512, losing 13% of the image and the defects there.

    Test: tests/test_images.py
    """
    plain = image.as_subclass(Tensor)
    return v2.functional.resize(plain, [size, size], v2.InterpolationMode.BILINEAR, antialias=True).contiguous()


def resize_mask(mask: Tensor, size: int) -> Tensor:
    """Scale ``(h, w)`` of 0 and 1 to ``(size, size)`` bool by nearest neighbour between pixel centres.

    Torch's mode "nearest" takes the upper left pixel of each block: at a quarter of the size that moves a defect by
    1.5 pixels. "nearest-exact" stays within half a pixel, which is what matters beside a map aligned by centres.

    Test: tests/test_images.py
    """
    plain = mask.as_subclass(Tensor)[None].to(torch.uint8)
    exact = v2.InterpolationMode.NEAREST_EXACT
    return v2.functional.resize(plain, [size, size], exact, antialias=False)[0] > 0
