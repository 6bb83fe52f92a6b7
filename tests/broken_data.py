"""Broken data sets in MVTec AD layout, several hundred: what is wrong with each, and what has to happen with it.

A case is a fault of one file (of every format, in every place) or of the folders. Its expectation is one of

- ``read``: the data set is usable and the file is among its samples;
- ``refused``: a DataError that names the file and says what to do;
- ``noted``: usable, and a warning of the data check names what is not read;
- ``either``: read or refused (damage that a decoder may or may not notice), never anything else.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 16, 12
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".tif": "TIFF"}
PLACES = {
    "train": "train/good/001",
    "good": "test/good/001",
    "defect": "test/dent/001",
    "mask": "ground_truth/dent/001_mask",
}


@dataclass(frozen=True)
class Case:
    """``damage`` changes the sound data set in a folder; a message, if any, must contain ``words``."""

    name: str
    expected: str
    damage: Callable[[Path], None]
    words: str
    place: str = "folders"


def picture(seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Coarse coloured noise."""
    values = np.random.default_rng(seed).integers(0, 200, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def defect_mask(size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """A square of 255 on 0."""
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    values[: size[1] // 2 + 1, : size[0] // 2 + 1] = 255
    return Image.fromarray(values)


def write_sound(part: Path) -> None:
    """Three training images, two good and two dented test images with masks."""
    names = [f"train/good/{i:03d}.png" for i in range(3)]
    names += [f"test/{kind}/{i:03d}.png" for kind in ("good", "dent") for i in range(2)]
    for seed, name in enumerate(names):
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(part / name)
    (part / "ground_truth/dent").mkdir(parents=True)
    for i in range(2):
        defect_mask().save(part / f"ground_truth/dent/{i:03d}_mask.png")


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


# --- contents of one file: (is mask, format) to bytes


def plain(mask: bool) -> Image.Image:
    return defect_mask() if mask else picture(9)


def frames(mask: bool, kind: str, **options) -> bytes:
    """Three frames that differ."""
    more = [Image.new(plain(mask).mode, (WIDTH, HEIGHT), v) for v in (40, 90)]
    return encoded(plain(mask), kind, save_all=True, append_images=more, **options)


def with_size(data: bytes, kind: str, width: int, height: int) -> bytes:
    """The file with another size written into its header."""
    found = bytearray(data)
    if kind == "PNG":
        found[16:24] = struct.pack(">II", width, height)
        found[29:33] = struct.pack(">I", zlib.crc32(bytes(found[12:29])))
    elif kind == "BMP":
        found[18:26] = struct.pack("<ii", width, height)
    elif kind == "JPEG":
        at = next(i for i in range(len(found) - 1) if found[i] == 0xFF and found[i + 1] in (0xC0, 0xC2))
        found[at + 5 : at + 9] = struct.pack(">HH", min(height, 65500), min(width, 65500))
    else:
        at = struct.unpack("<I", found[4:8])[0]
        for entry in range(struct.unpack("<H", found[at : at + 2])[0]):
            start = at + 2 + 12 * entry
            tag = struct.unpack("<H", found[start : start + 2])[0]
            if tag in (256, 257):
                value = width if tag == 256 else height
                found[start : start + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(found)


def rotated(mask: bool, kind: str) -> bytes:
    """Orientation 6: shown turned by a right angle, so that width and height change places."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(plain(mask), kind, exif=exif)


def other_format(mask: bool, kind: str) -> bytes:
    """The bytes of a JPEG where the name says PNG, and so on; a mask stays lossless."""
    others = {"PNG": "BMP" if mask else "JPEG", "JPEG": "PNG", "BMP": "TIFF", "TIFF": "PNG"}
    return encoded(plain(mask), others[kind])


def sixteen_bit(mask: bool, kind: str) -> bytes:
    values = np.asarray(plain(mask).convert("L")).astype(np.uint16) * 257
    return encoded(Image.fromarray(values), "TIFF" if kind == "TIFF" else "PNG")


def cmyk(mask: bool, kind: str) -> bytes:
    """Four inks; as TIFF where the format has none, and for masks, which must not be blurred."""
    black = Image.eval(plain(mask).convert("L"), lambda v: 255 - v)
    inks = Image.merge("CMYK", [*[Image.new("L", (WIDTH, HEIGHT))] * 3, black])
    return encoded(inks, "JPEG" if kind == "JPEG" and not mask else "TIFF")


def zeroed(data: bytes) -> bytes:
    """With nine bytes of 0 in the middle."""
    half = len(data) // 2
    return data[:half] + bytes(9) + data[half + 9 :]


def transparent_palette(mask: bool, kind: str) -> bytes:
    """Index 7 is transparent white, which counts as black."""
    indexed = plain(mask).convert("L").point(lambda v: 7 if v < 128 else 1).convert("P")
    indexed = Image.fromarray(np.where(np.asarray(plain(mask).convert("L")) < 128, 7, 1).astype(np.uint8), "P")
    indexed.putpalette([0, 0, 0, 255, 255, 255, *[0] * 15, 255, 255, 255])
    return encoded(indexed, "GIF" if kind == "BMP" else "PNG", transparency=7)


def half_transparent(mask: bool, kind: str) -> bytes:
    both = plain(mask).convert("RGBA")
    both.putalpha(Image.new("L", (WIDTH, HEIGHT), 200))
    return encoded(both, "TIFF" if kind == "TIFF" else "PNG")


def floats(mask: bool, kind: str) -> bytes:
    return encoded(Image.fromarray(np.asarray(plain(mask).convert("L"), dtype=np.float32)), "TIFF")


def wide_integers(mask: bool, kind: str) -> bytes:
    return encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 70_000, dtype=np.int32)), "TIFF")


def lab(mask: bool, kind: str) -> bytes:
    return encoded(Image.new("LAB", (WIDTH, HEIGHT), 30), "TIFF")


def bad_exif(mask: bool, kind: str) -> bytes:
    """Metadata that says nothing."""
    junk = b"Exif\0\0" + bytes(range(60))
    return encoded(plain(mask), kind, exif=junk) if kind in ("JPEG", "PNG") else encoded(plain(mask), kind) + junk


PACKED = zlib.compress(bytes(20_000_000), 9)


def text_bomb(mask: bool, kind: str) -> bytes:
    """A comment of 20 MB, packed into 20 kB, in front of the pixels of a PNG."""
    data = encoded(plain(mask), "PNG")
    body = b"zTXt" + b"a\0\0" + PACKED
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:33] + chunk + data[33:]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\n(%s) (w) file closefile\nshowpage\n%%EOF\n"
ANY = {
    "sound": ("read", lambda m, k: encoded(plain(m), k)),
    "empty": ("refused", lambda m, k: b""),
    "one_byte": ("refused", lambda m, k: encoded(plain(m), k)[:1]),
    "header_only": ("refused", lambda m, k: encoded(plain(m), k)[:20]),
    "cut_in_half": ("refused", lambda m, k: (lambda d: d[: len(d) // 2])(encoded(picture(1, (99, 70)), k))),
    "text": ("refused", lambda m, k: b"This is no picture.\n" * 9),
    "html": ("refused", lambda m, k: b"<!doctype html><title>404</title><p>Not found"),
    "noise": ("refused", lambda m, k: np.random.default_rng(5).bytes(4000)),
    "zeros": ("refused", lambda m, k: bytes(4000)),
    "damaged_middle": ("either", lambda m, k: zeroed(encoded(plain(m), k))),
    "text_behind": ("read", lambda m, k: encoded(plain(m), k) + b"more" * 50),
    "other_format": ("read", other_format),
    "gif": ("read", lambda m, k: encoded(plain(m), "GIF")),
    "animated_gif": ("refused", lambda m, k: frames(m, "GIF")),
    "animated_webp": ("refused", lambda m, k: frames(m, "WEBP", lossless=True)),
    "animated_png": ("refused", lambda m, k: frames(m, "PNG")),
    "pages": ("refused", lambda m, k: frames(m, "TIFF")),
    "sixteen_bit": ("read", sixteen_bit),
    "cmyk": ("read", cmyk),
    "transparent_palette": ("read", transparent_palette),
    "half_transparent": ("read", half_transparent),
    "floats": ("refused", floats),
    "wide_integers": ("refused", wide_integers),
    "lab": ("read", lab),
    "bad_exif": ("either", bad_exif),
    "text_bomb": ("either", text_bomb),
    "bomb": ("refused", lambda m, k: with_size(encoded(plain(m), k), k, 60_000, 60_000)),
    "size_that_lies": ("either", lambda m, k: with_size(encoded(plain(m), k), k, 5_000, 5_000)),
    "postscript": ("refused", lambda m, k: EPS),
    "portable_pixmap": ("refused", lambda m, k: encoded(plain(m).convert("RGB"), "PPM")),
    "icon": ("refused", lambda m, k: encoded(plain(m).convert("RGBA"), "ICO")),
    "jpeg_2000": ("refused", lambda m, k: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(90)),
}  # fmt: skip

# Of another shape than expected: fine alone, an error where an image and its mask must agree.
SHAPES = {
    "rotated": rotated,
    "one_pixel": lambda m, k: encoded(Image.new("L", (1, 1), 255), k),
    "twenty_thousand_wide": lambda m, k: encoded(Image.new("L", (20_000, 3), 255), k),
    "twenty_thousand_high": lambda m, k: encoded(Image.new("L", (2, 20_000), 255), k),
    "one_column_more": lambda m, k: encoded((defect_mask if m else lambda s: picture(9, s))((WIDTH + 1, HEIGHT)), k),
    "one_row_less": lambda m, k: encoded((defect_mask if m else lambda s: picture(9, s))((WIDTH, HEIGHT - 1)), k),
}


def grey_edges() -> Image.Image:
    """Antialiased: 255 inside, 130 and 60 around."""
    values = np.asarray(defect_mask()).copy()
    values[7, :9], values[8, :9] = 130, 60
    return Image.fromarray(values)


def lossless(values: Image.Image, kind: str) -> bytes:
    return encoded(values, "PNG" if kind == "JPEG" else kind)


NOTHING = Image.new("L", (WIDTH, HEIGHT))
MASKS = {
    "grey_edges": ("read", lambda k: encoded(grey_edges(), k)),
    "grey_only": ("refused", lambda k: encoded(Image.eval(defect_mask(), lambda v: v // 3), k)),
    "class_numbers": ("refused", lambda k: lossless(Image.eval(defect_mask(), lambda v: v // 80), k)),
    "nothing_marked": ("noted", lambda k: encoded(NOTHING, k)),
    "all_marked": ("read", lambda k: encoded(Image.new("L", (WIDTH, HEIGHT), 255), k)),
    "one_bit": ("read", lambda k: lossless(defect_mask().convert("1"), k)),
    "zero_and_one": ("read", lambda k: lossless(Image.eval(defect_mask(), lambda v: v // 255), k)),
    "coloured": ("read", lambda k: encoded(Image.merge("RGB", [defect_mask(), NOTHING, NOTHING]), k)),
}  # fmt: skip


# --- things that are no file


def replace_file(part: Path, place: str, suffix: str, write: Callable[[Path], None]) -> None:
    """Put something else where the file of a place is; the rest of the data set stays sound."""
    (part / f"{PLACES[place]}.png").unlink()
    write(part / f"{PLACES[place]}{suffix}")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_folder_of_images(path: Path) -> None:
    path.mkdir()
    picture(3).save(path / "inner.png")


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def two_links(path: Path) -> None:
    other = path.with_name(f"zz{path.name}.link")
    path.symlink_to(other.name)
    other.symlink_to(path.name)


def a_socket(path: Path) -> None:
    here = os.getcwd()
    try:
        os.chdir(path.parent)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path.name)
    finally:
        os.chdir(here)


def unreadable(path: Path) -> None:
    picture(1).save(path, format="PNG")
    path.chmod(0)


ODD = {
    "a_folder": a_folder,
    "a_folder_of_images": a_folder_of_images,
    "link_to_itself": to_itself,
    "links_in_a_circle": two_links,
    "link_to_nowhere": lambda p: p.symlink_to("nowhere.png"),
    "link_to_a_folder": lambda p: p.symlink_to("."),
    "link_to_zeros": lambda p: p.symlink_to("/dev/zero"),
    "link_to_nothing": lambda p: p.symlink_to("/dev/null"),
    "pipe": lambda p: os.mkfifo(p),
    "socket": a_socket,
    "unreadable": unreadable,
}


# --- faults of the folders: (expected, words of the message, damage)


def copy(part: Path, source: str, target: str) -> None:
    (part / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(part / source, part / target)


def named(stem: str) -> Callable[[Path], None]:
    """Another dented image of this name, with its mask."""

    def damage(part: Path) -> None:
        copy(part, "test/dent/000.png", f"test/dent/{stem}.png")
        copy(part, "ground_truth/dent/000_mask.png", f"ground_truth/dent/{stem}.png")

    return damage


def kind_named(name: str) -> Callable[[Path], None]:
    """Another kind of defect."""

    def damage(part: Path) -> None:
        copy(part, "test/dent/000.png", f"test/{name}/000.png")
        copy(part, "ground_truth/dent/000_mask.png", f"ground_truth/{name}/000_mask.png")

    return damage


def replaced_by_file(name: str) -> Callable[[Path], None]:
    def damage(part: Path) -> None:
        shutil.rmtree(part / name)
        (part / name).write_text("a file")

    return damage


def replaced_by_loop(name: str) -> Callable[[Path], None]:
    def damage(part: Path) -> None:
        shutil.rmtree(part / name)
        (part / name).symlink_to((part / name).name)

    return damage


def locked(name: str, mode: int) -> Callable[[Path], None]:
    return lambda part: (part / name).chmod(mode)


def deep(part: Path) -> None:
    folder = part / "train/good" / "/".join(["d"] * 60)
    folder.mkdir(parents=True)
    picture(3).save(folder / "far.png")


def other_normal_form(part: Path) -> None:
    """The image's name is composed, the mask's decomposed: equal to the eye."""
    copy(part, "test/dent/000.png", "test/dent/\u00e9.png")
    copy(part, "ground_truth/dent/000_mask.png", "ground_truth/dent/e\u0301_mask.png")


def not_utf8(part: Path) -> None:
    copy(part, "train/good/000.png", os.fsdecode(b"train/good/bad\xff\xfe.png"))


def linked(part: Path) -> None:
    (part / "train/good").rename(part / "train/.real")
    (part / "train/good").symlink_to(".real")


def locked_inside(part: Path) -> None:
    copy(part, "train/good/000.png", "train/good/more/0.png")
    (part / "train/good/more").chmod(0)


def without(*names: str) -> Callable[[Path], None]:
    return lambda part: [shutil.rmtree(part / name) for name in names]


def again(source: str, target: str) -> Callable[[Path], None]:
    return lambda part: copy(part, source, target)


MASK = "ground_truth/dent/001_mask.png"
FOLDERS = {
    "mask_missing": ("refused", "001.png", lambda p: (p / "ground_truth/dent/001_mask.png").unlink()),
    "masks_missing": ("refused", "has no mask", lambda p: [q.unlink() for q in (p / "ground_truth/dent").iterdir()]),
    "no_ground_truth": ("noted", "no mask", lambda p: shutil.rmtree(p / "ground_truth")),
    "image_of_a_mask_missing": ("refused", "001_mask.png", lambda p: (p / "test/dent/001.png").unlink()),
    "two_masks": ("refused", "has two masks", again(MASK, "ground_truth/dent/001.png")),
    "mask_twice": ("refused", "001_mask", again(MASK, "ground_truth/dent/001_mask.bmp")),
    "stem_twice_in_train": ("refused", "same stem", again("train/good/001.png", "train/good/001.jpg")),
    "stem_twice_in_test": ("refused", "same stem", again("test/dent/001.png", "test/dent/001.jpg")),
    "suffix_in_capitals_twice": ("refused", "same stem", again("test/good/001.png", "test/good/001.PNG")),
    "suffix_in_capitals": ("read", "", lambda p: (p / "test/good/001.png").rename(p / "test/good/001.PNG")),
    "train_empty": ("refused", "no training image", lambda p: [q.unlink() for q in (p / "train/good").iterdir()]),
    "train_missing": ("refused", "no training image", lambda p: shutil.rmtree(p / "train")),
    "train_good_missing": ("refused", "no training image", lambda p: shutil.rmtree(p / "train/good")),
    "train_in_capitals": ("refused", "train/good", lambda p: (p / "train/good").rename(p / "train/Good")),
    "train_good_is_a_file": ("refused", "no training image", replaced_by_file("train/good")),
    "train_is_a_file": ("refused", "no training image", replaced_by_file("train")),
    "train_is_a_loop": ("refused", "no training image", replaced_by_loop("train")),
    "train_good_is_a_loop": ("refused", "no training image", replaced_by_loop("train/good")),
    "test_missing": ("refused", "no image of its name", lambda p: shutil.rmtree(p / "test")),
    "test_is_a_file": ("refused", "no image of its name", replaced_by_file("test")),
    "test_and_truth_missing": ("noted", "no test image", without("test", "ground_truth")),
    "test_dent_empty": ("refused", "no image of its name", lambda p: [q.unlink() for q in (p / "test/dent").iterdir()]),
    "test_dent_is_a_file": ("refused", "no image of its name", replaced_by_file("test/dent")),
    "truth_is_a_file": ("refused", "ground_truth", replaced_by_file("ground_truth")),
    "truth_dent_is_a_file": ("refused", "has no mask", replaced_by_file("ground_truth/dent")),
    "truth_dent_is_a_loop": ("refused", "has no mask", replaced_by_loop("ground_truth/dent")),
    "no_good_test_image": ("noted", "no defect-free test image", lambda p: shutil.rmtree(p / "test/good")),
    "empty_kind": ("noted", "holds no image", lambda p: (p / "test/hole").mkdir()),
    "folder_in_train": ("refused", "more", again("train/good/000.png", "train/good/more/0.png")),
    "folder_very_deep": ("refused", "far.png", deep),
    "loop_in_train": ("refused", "loop", lambda p: (p / "train/good/loop").symlink_to("..")),
    "loop_in_test": ("refused", "loop", lambda p: (p / "test/loop").symlink_to(".")),
    "loop_beside_train": ("noted", "loop", lambda p: (p / "loop").symlink_to("..")),
    "image_beside_train": ("noted", "photo.png", again("train/good/000.png", "photo.png")),
    "image_in_test": ("refused", "photo.png", again("train/good/000.png", "test/photo.png")),
    "image_in_train": ("refused", "photo.png", again("train/good/000.png", "train/photo.png")),
    "gif_in_train": ("noted", "photo.gif", again("train/good/000.png", "train/good/photo.gif")),
    "heic_in_test": ("noted", "photo.heic", again("train/good/000.png", "test/dent/photo.heic")),
    "no_suffix": ("noted", "photo", again("train/good/000.png", "train/good/photo")),
    "backup": ("noted", "000.png~", again("train/good/000.png", "train/good/000.png~")),
    "link_to_train": ("read", "", linked),
    "composed": ("read", "", named("sch\u00f6n \u5de5\u4ef6 \U0001f529")),
    "other_normal_form": ("refused", "has no mask", other_normal_form),
    "right_to_left": ("read", "", named("\u202e\u05d0\u05d1")),
    "not_utf8": ("refused", "bad", not_utf8),
    "new_line": ("read", "", named("a\nb")),
    "markup": ("read", "", named("<script>alert(1)<")),
    "formula": ("read", "", named("a$\\frac{$_^")),
    "quotes": ("read", "", named("a'b\"c;d,e=1")),
    "spaces": ("read", "", named(" a  b ")),
    "dots": ("read", "", named("a.b..c")),
    "dash": ("read", "", named("--help")),
    "longest_name": ("read", "", named("n" * 251)),
    "longest_name_of_wide_letters": ("read", "", named("\u5de5" * 83)),
    "kind_with_formula": ("read", "", kind_named("a$b_{$")),
    "kind_with_markup": ("read", "", kind_named("<img src=x>")),
    "kind_with_spaces": ("read", "", kind_named(" dent ")),
    "kind_with_long_name": ("read", "", kind_named("k" * 255)),
    "kind_ok": ("refused", "must be called test/good", kind_named("ok")),
    "kind_named_like_an_image": ("read", "", kind_named("dent.png")),
}  # fmt: skip

LOCKED = {
    "category_without_any_right": ("refused", "part", locked(".", 0)),
    "category_that_cannot_be_entered": ("refused", "part", locked(".", 0o444)),
    "train_good_without_any_right": ("refused", "train/good", locked("train/good", 0)),
    "train_that_cannot_be_entered": ("refused", "train", locked("train", 0o444)),
    "test_without_any_right": ("refused", "test", locked("test", 0)),
    "test_that_cannot_be_entered": ("refused", "test", locked("test", 0o444)),
    "test_dent_that_cannot_be_entered": ("refused", "test/dent", locked("test/dent", 0o444)),
    "test_dent_that_cannot_be_listed": ("refused", "test/dent", locked("test/dent", 0o111)),
    "truth_that_cannot_be_entered": ("refused", "ground_truth", locked("ground_truth", 0o444)),
    "folder_in_train_without_any_right": ("refused", "more", locked_inside),
}  # fmt: skip


def file_case(name: str, expected: str, place: str, suffix: str, content: Callable[[], bytes], words: str = "") -> Case:
    def damage(part: Path) -> None:
        replace_file(part, place, suffix, lambda path: path.write_bytes(content()))

    return Case(f"{name}-{place}{suffix}", expected, damage, words or f"{PLACES[place]}{suffix}", place)


def cases() -> Iterator[Case]:
    """Every case; a few hundred."""
    for place in PLACES:
        mask, paired = place == "mask", place in ("mask", "defect")
        for suffix, kind in FORMATS.items():
            for name, (expected, make) in ANY.items():
                words = "ground_truth/dent/001_mask" if paired and name == "size_that_lies" and kind == "JPEG" else ""
                yield file_case(name, expected, place, suffix, lambda make=make, m=mask, k=kind: make(m, k), words)
            for name, make in SHAPES.items():
                # Pillow writes no orientation into a BMP; there, the file stays as it was.
                fits = not paired or (name == "rotated" and kind == "BMP")
                expected, words = ("read", "") if fits else ("refused", "ground_truth/dent/001_mask")
                yield file_case(name, expected, place, suffix, lambda make=make, m=mask, k=kind: make(m, k), words)
        for name, write in ODD.items():
            yield Case(
                f"{name}-{place}", "refused", lambda p, w=write, at=place: replace_file(p, at, ".png", w),
                f"{PLACES[place]}.png", place,
            )  # fmt: skip
    for suffix, kind in FORMATS.items():
        for name, (expected, make) in MASKS.items():
            yield file_case(name, expected, "mask", suffix, lambda make=make, k=kind: make(k))
    for name, (expected, words, damage) in FOLDERS.items():
        yield Case(name, expected, damage, words)
    for name, (expected, words, damage) in LOCKED.items():
        yield Case(name, expected, damage, words)
