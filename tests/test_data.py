"""data.py: three layouts, pairs by stem in any order of listing, and a message for every folder that is not right."""

import random
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from advit.data import data_digest, list_categories, open_category, scan_category
from advit.errors import DataError


def put(root, *names, size=(8, 8)):
    """Write small images of these names."""
    for name in names:
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, zlib.crc32(name.encode()) % 200).save(path)


def names(samples, root):
    return [
        (s.path.relative_to(root).as_posix(), s.defect, s.mask and s.mask.relative_to(root).as_posix()) for s in samples
    ]


def refused(root, name="part"):
    """The message of the DataError."""
    with pytest.raises(DataError) as error:
        open_category(root, name)
    return str(error.value)


# --- layouts


def test_mvtec_layout(tiny_mvtec):
    assert list_categories(tiny_mvtec) == ["part"]
    category = open_category(tiny_mvtec, "part")
    assert (category.name, category.layout, category.root) == ("part", "mvtec", tiny_mvtec / "part")
    assert names(category.train, category.root) == [(f"train/good/{i:03d}.png", "good", None) for i in range(6)]
    expected = [(f"test/dent/{i:03d}.png", "dent", f"ground_truth/dent/{i:03d}_mask.png") for i in range(3)]
    expected += [(f"test/good/{i:03d}.png", "good", None) for i in range(3)]
    assert names(category.test, category.root) == expected
    assert [s.is_anomalous for s in category.test] == [True] * 3 + [False] * 3


def test_btad_layout(tmp_path):
    put(tmp_path / "01", "train/ok/0000.bmp", "train/ok/0001.bmp", "test/ok/0002.bmp", "test/ko/0003.bmp")
    put(tmp_path / "01", "ground_truth/ko/0003.png")
    category = open_category(tmp_path, "01")
    assert category.layout == "btad" and [s.defect for s in category.train] == ["good", "good"]
    assert names(category.test, category.root) == [
        ("test/ko/0003.bmp", "ko", "ground_truth/ko/0003.png"),
        ("test/ok/0002.bmp", "good", None),
    ]


def test_plain_folder_of_images(tmp_path):
    put(tmp_path / "part", "b.png", "a.jpg", "c.webp")
    category = open_category(tmp_path, "part")
    assert category.layout == "folder" and category.test == ()
    assert [s.path.name for s in category.train] == ["a.jpg", "b.png", "c.webp"]


def test_plain_folder_with_good_only(tmp_path):
    put(tmp_path / "part", *(f"good/{i}.png" for i in range(7)))
    category = open_category(tmp_path, "part")
    assert len(category.train) == 7 and category.test == ()


@pytest.mark.parametrize("with_masks", [False, True])
def test_plain_folder_with_good_and_bad(tmp_path, with_masks):
    put(tmp_path / "part", *(f"good/{i:02d}.png" for i in range(12)), "bad/x.png", "bad/y.png")
    if with_masks:
        put(tmp_path / "part", "masks/x.png", "masks/y_mask.png")
    category = open_category(tmp_path, "part")
    held_out = [s.path.stem for s in category.test if not s.is_anomalous]
    assert held_out == ["04", "09"] and len(category.train) == 10
    assert not {s.path for s in category.train} & {s.path for s in category.test}
    bad = [(s.path.name, s.mask and s.mask.name) for s in category.test if s.is_anomalous]
    assert bad == ([("x.png", "x.png"), ("y.png", "y_mask.png")] if with_masks else [("x.png", None), ("y.png", None)])


def test_without_any_ground_truth_masks_are_none(tiny_mvtec):
    shutil.rmtree(tiny_mvtec / "part/ground_truth")
    category = open_category(tiny_mvtec, "part")
    assert [s.mask for s in category.test] == [None] * 6 and sum(s.is_anomalous for s in category.test) == 3


def test_masks_with_and_without_suffix_and_of_another_format(tiny_mvtec):
    truth = tiny_mvtec / "part/ground_truth/dent"
    (truth / "001_mask.png").rename(truth / "001.bmp")
    category = open_category(tiny_mvtec, "part")
    assert [s.mask.name for s in category.test if s.mask] == ["000_mask.png", "001.bmp", "002_mask.png"]


def test_a_number_means_another_image_in_each_defect(tiny_mvtec):
    put(tiny_mvtec / "part", "test/scratch/000.png", "ground_truth/scratch/000_mask.png")
    for sample in open_category(tiny_mvtec, "part").test:
        if sample.is_anomalous:
            assert sample.mask.parent.name == sample.path.parent.name == sample.defect
            assert sample.mask.stem == f"{sample.path.stem}_mask"


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_listing_gives_the_same_pairs(tiny_mvtec, monkeypatch, seed):
    expected, digest = open_category(tiny_mvtec, "part"), data_digest(open_category(tiny_mvtec, "part"))
    listing, order, seen = Path.iterdir, random.Random(seed), []

    def shuffled(folder):
        found = sorted(listing(folder))
        order.shuffle(found)
        seen.append(found)
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", shuffled)
    category = open_category(tiny_mvtec, "part")
    assert any(found != sorted(found) for found in seen)
    assert category == expected and data_digest(category) == digest


def test_hidden_files_and_notes_are_passed_over(tiny_mvtec):
    for name in ("train/good/.DS_Store", "train/good/._000.png", "license.txt", "test/.cache.png", "train/good/n.txt"):
        (tiny_mvtec / "part" / name).write_bytes(b"x")
    scan = scan_category(tiny_mvtec, "part")
    assert (scan.errors, scan.warnings) == ([], []) and len(scan.category.train) == 6


def test_sizes_need_not_be_square_or_equal(tmp_path):
    put(tmp_path / "part", "train/good/0.png", size=(12, 30))
    put(tmp_path / "part", "train/good/1.png", size=(31, 7))
    assert len(open_category(tmp_path, "part").train) == 2


# --- roots and names that are not right


def test_a_missing_root(tmp_path):
    message = refused(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message and "does not exist" in message


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    assert "data.zip is no folder" in refused(tmp_path / "data.zip")


def test_a_root_without_categories(tmp_path):
    (tmp_path / "docs").mkdir()
    assert f"{tmp_path} holds no category" in refused(tmp_path) and "train/good" in refused(tmp_path)


def test_a_root_one_level_too_high_is_told_where_to_look(tiny_mvtec):
    assert f"Did you mean {tiny_mvtec}?" in refused(tiny_mvtec.parent, "part")


@pytest.mark.parametrize("layout", ["train/good", "train/ok", "good", "."])
def test_a_root_that_is_a_category_gets_the_right_command(tmp_path, layout):
    put(tmp_path / "screws", f"{layout}/0.png")
    expected = f"is itself a category: pass --data {tmp_path} -p screws"
    assert expected in refused(tmp_path / "screws", "screws")


def test_a_relative_root_that_is_a_category(tiny_mvtec, monkeypatch):
    monkeypatch.chdir(tiny_mvtec / "part")
    assert f"pass --data {tiny_mvtec} -p part" in refused(Path("."))


def test_a_misspelt_category_suggests_the_nearest(tiny_mvtec):
    put(tiny_mvtec / "bottle", "train/good/0.png")
    message = refused(tiny_mvtec, "botle")
    assert "No category 'botle'" in message and "Available: bottle, part" in message
    assert message.endswith("Did you mean 'bottle'?")


@pytest.mark.parametrize("name", ["", "..", ".", "part/train"])
def test_names_that_are_no_category(tiny_mvtec, name):
    assert f"No category {name!r}" in refused(tiny_mvtec, name)


# --- categories that are not right


def test_an_empty_category(tmp_path):
    put(tmp_path / "other", "train/good/0.png")
    (tmp_path / "part/train/good").mkdir(parents=True)
    message = refused(tmp_path)
    assert f"no training image in {tmp_path / 'part/train/good'}" in message and "defect-free" in message


def test_an_image_without_mask(tiny_mvtec):
    (tiny_mvtec / "part/ground_truth/dent/001_mask.png").unlink()
    message = refused(tiny_mvtec)
    assert f"{tiny_mvtec / 'part/test/dent/001.png'} has no mask" in message and "001_mask.png" in message


def test_a_mask_without_image(tiny_mvtec):
    (tiny_mvtec / "part/test/dent/002.png").unlink()
    mask = tiny_mvtec / "part/ground_truth/dent/002_mask.png"
    assert f"mask {mask} has no image of its name" in refused(tiny_mvtec)


def test_masks_of_a_defect_that_has_no_images(tiny_mvtec):
    shutil.rmtree(tiny_mvtec / "part/test/dent")
    assert refused(tiny_mvtec).count("has no image of its name") == 3


def test_two_masks_of_one_image(tiny_mvtec):
    put(tiny_mvtec / "part", "ground_truth/dent/001.png")
    message = refused(tiny_mvtec)
    assert "001.png has two masks" in message and "001_mask.png" in message


def test_two_images_of_one_stem(tiny_mvtec):
    put(tiny_mvtec / "part", "test/dent/001.jpg")
    assert re.search(r"001\.png and 001\.jpg have the same stem|001\.jpg and 001\.png have", refused(tiny_mvtec))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train/bad/0.png", "training images must lie in train/good"),
        ("test/0.png", "test holds one folder per kind"),
        ("ground_truth/0_mask.png", "ground_truth holds one folder per kind"),
        ("test/dent/more/0.png", "images must lie in"),
        ("test/ok/0.png", "must be called test/good"),
    ],
)
def test_images_that_would_be_left_out(tiny_mvtec, name, expected):
    put(tiny_mvtec / "part", name)
    assert expected in refused(tiny_mvtec)


def test_many_problems_are_cut_short_and_the_check_is_named(tiny_mvtec):
    for i in range(3, 9):
        put(tiny_mvtec / "part", f"test/dent/{i:03d}.png")
    message = refused(tiny_mvtec)
    assert message.count("has no mask") == 3
    assert f"... and 3 more; 'advit data check {tiny_mvtec} -p part' lists all." in message
    assert len(scan_category(tiny_mvtec, "part").errors) == 6


def test_test_images_of_one_kind_are_a_warning(tiny_mvtec):
    shutil.rmtree(tiny_mvtec / "part/test/good")
    scan = scan_category(tiny_mvtec, "part")
    assert scan.errors == [] and "no defect-free test image" in scan.warnings[0]


def test_files_of_other_kinds_are_a_warning(tiny_mvtec):
    (tiny_mvtec / "part/train/good/photo.heic").write_bytes(b"x")
    (warning,) = scan_category(tiny_mvtec, "part").warnings
    assert "not read as images" in warning and "photo.heic" in warning


# --- digest


def test_digest_changes_with_one_byte_of_any_file_and_with_a_name(tiny_mvtec):
    def digest():
        return data_digest(open_category(tiny_mvtec, "part"))

    first = digest()
    assert re.fullmatch("[0-9a-f]{64}", first) and digest() == first
    for name in ("train/good/003.png", "test/good/001.png", "ground_truth/dent/002_mask.png"):
        path = tiny_mvtec / "part" / name
        old = path.read_bytes()
        path.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
        assert digest() != first
        path.write_bytes(old)
    assert digest() == first
    (tiny_mvtec / "part/train/good/005.png").rename(tiny_mvtec / "part/train/good/006.png")
    assert digest() != first


def test_digest_is_of_the_content_not_of_the_place(tiny_mvtec, tmp_path):
    shutil.copytree(tiny_mvtec, tmp_path / "copy")
    assert data_digest(open_category(tmp_path / "copy", "part")) == data_digest(open_category(tiny_mvtec, "part"))


def test_digest_does_not_depend_on_the_order_of_samples(tiny_mvtec):
    category = open_category(tiny_mvtec, "part")
    turned = replace(category, train=category.train[::-1], test=category.test[::-1])
    assert data_digest(turned) == data_digest(category)


def test_digest_of_a_file_that_vanished_names_it(tiny_mvtec):
    category = open_category(tiny_mvtec, "part")
    (tiny_mvtec / "part/train/good/002.png").unlink()
    with pytest.raises(DataError, match=r"002\.png"):
        data_digest(category)


# --- real images


@pytest.mark.real
@pytest.mark.parametrize(
    ("root", "name", "counts"),
    [
        ("mvtec", "bottle", (209, 83, 63)),
        (".", "magnetic_tile", (727, 613, 388)),
        (".", "hazelnut_toy", (28, 23, 17)),
    ],
)
def test_counts_of_real_categories(real_data, root, name, counts):
    if not (real_data / root / name).is_dir():
        pytest.skip(f"{real_data / root} has no {name}")
    category = open_category(real_data / root, name)
    assert (len(category.train), len(category.test), sum(s.mask is not None for s in category.test)) == counts
    assert all((s.mask is not None) == s.is_anomalous for s in category.test)
    assert all(s.mask.stem == f"{s.path.stem}_mask" and s.mask.parent.name == s.defect for s in category.test if s.mask)
