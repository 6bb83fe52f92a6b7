"""data_check.py: every problem is found, counted and told apart; near-duplicates are, other images are not."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from advit.cli import main
from advit.data_check import check_category, check_table, has_errors

PROBLEMS = ["missing", "empty", "mismatched", "unreadable", "duplicates", "errors", "warnings"]


def row(report):
    """The report's row of the table, as a dict."""
    table = check_table([report])
    assert list(table.index) == [report.name]
    return table.iloc[0].to_dict()


def check(root, name="part"):
    """Report of a category, and the numbers of problems that are not 0."""
    report = check_category(root, name)
    cells = row(report)
    return report, {k: cells[k] for k in PROBLEMS if cells[k]}


def object_photo(seed, gain=1.0, offset=0.0, noise_seed=0):
    """An aligned object: a strong common shape, weak differences of its own, lighting, and noise of the camera."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    shape = 60 + 120 * ((x**2 + y**2 < 0.7) & (x**2 + y**2 > 0.2))
    own = np.kron(np.random.default_rng(seed).normal(0, 6, (16, 16)), np.ones((8, 8)))
    noise = np.random.default_rng(noise_seed).normal(0, 1, (128, 128))
    return np.clip(gain * (shape + own) + offset + noise, 0, 255).astype(np.uint8)


def write_objects(root, train=range(20), test=range(100, 106)):
    for folder, seeds in (("train/good", train), ("test/good", test)):
        (root / "part" / folder).mkdir(parents=True)
        for i, seed in enumerate(seeds):
            Image.fromarray(object_photo(seed, noise_seed=seed)).save(root / "part" / folder / f"{i:03d}.png")


# --- counts


def test_a_sound_category_has_no_problems(tiny_mvtec):
    report, problems = check(tiny_mvtec)
    assert problems == {} and report.errors == report.warnings == [] and not has_errors([report])
    sound = {"layout": "mvtec", "train": 6, "test good": 3, "test anomalous": 3, "masks": 3}
    sound |= {"smallest": "64x64", "largest": "64x64", **dict.fromkeys(PROBLEMS, 0)}
    assert row(report) == sound


def test_sizes_are_ordered_by_area_and_written_width_first(tiny_mvtec):
    for i, size in enumerate([(100, 70), (9, 200), (64, 63)]):
        Image.new("L", size, 40 * i).save(tiny_mvtec / f"part/train/good/{i:03d}.png")
    cells = row(check_category(tiny_mvtec, "part"))
    assert (cells["smallest"], cells["largest"]) == ("9x200", "100x70")


def test_the_table_has_a_row_per_category_in_their_order(tiny_mvtec):
    shutil.copytree(tiny_mvtec / "part", tiny_mvtec / "another")
    table = check_table([check_category(tiny_mvtec, name) for name in ("part", "another", "nowhere")])
    assert list(table.index) == ["part", "another", "nowhere"] and table["errors"].tolist() == [0, 0, 1]
    lines = table.to_string().splitlines()
    assert len(lines) == 4 and lines[0].startswith("category")
    assert check_table([]).empty


def test_progress_is_shown_only_when_asked_for(tiny_mvtec, capsys):
    check_category(tiny_mvtec, "part")
    assert capsys.readouterr() == ("", "")
    check_category(tiny_mvtec, "part", progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "check part" in err and "12/12" in err


# --- errors


def test_all_errors_are_collected_each_once(tiny_mvtec):
    part = tiny_mvtec / "part"
    (part / "train/good/001.png").write_bytes(b"")
    (part / "train/good/002.png").write_bytes((part / "train/good/002.png").read_bytes()[:80])
    (part / "test/good/000.png").write_text("no image")
    (part / "ground_truth/dent/000_mask.png").unlink()
    Image.new("L", (64, 60), 255).save(part / "ground_truth/dent/001_mask.png")
    (part / "ground_truth/dent/002_mask.png").write_bytes(b"")
    Image.new("L", (64, 64), 255).save(part / "ground_truth/dent/009_mask.png")
    report, problems = check(tiny_mvtec)
    assert problems == {"missing": 1, "mismatched": 1, "unreadable": 4, "errors": 7}
    expected = {
        "test/dent/000.png has no mask": 1,
        "009_mask.png has no image": 1,
        "train/good/001.png: the file is empty": 1,
        "train/good/002.png": 1,
        "test/good/000.png: not an image": 1,
        "001_mask.png is 64x60 pixels, its image is 64x64": 1,
        "002_mask.png: the file is empty": 1,
    }
    assert {text: sum(text in line for line in report.errors) for text in expected} == expected
    assert has_errors([report])


def test_a_mask_is_still_read_where_its_image_cannot_be(tiny_mvtec):
    (tiny_mvtec / "part/test/dent/000.png").write_bytes(b"")
    (tiny_mvtec / "part/ground_truth/dent/000_mask.png").write_bytes(b"")
    report, problems = check(tiny_mvtec)
    assert problems == {"unreadable": 2, "errors": 2} and "000_mask.png" in report.errors[1]


@pytest.mark.parametrize(("root", "expected"), [("nowhere", "does not exist"), ("data", "Did you mean 'part'?")])
def test_a_category_that_is_not_there_is_a_report(tiny_mvtec, root, expected):
    report, problems = check(tiny_mvtec.parent / root, "prat")
    assert problems == {"errors": 1} and expected in report.errors[0]
    assert row(report)["layout"] == row(report)["smallest"] == "-"


def test_a_category_without_training_images(tiny_mvtec):
    shutil.rmtree(tiny_mvtec / "part/train/good")
    report, problems = check(tiny_mvtec)
    assert problems == {"errors": 1} and "no training image" in report.errors[0]


# --- warnings


def test_an_empty_mask_is_a_warning(tiny_mvtec):
    Image.new("L", (64, 64)).save(tiny_mvtec / "part/ground_truth/dent/001_mask.png")
    report, problems = check(tiny_mvtec)
    assert problems == {"empty": 1, "warnings": 1} and not has_errors([report])
    assert "dent/001_mask.png is empty" in report.warnings[0]


def test_a_mask_that_is_lost_at_evaluation_size_is_a_warning(tiny_mvtec):
    part = tiny_mvtec / "part"
    for column, lost in ((0, True), (2, False)):  # nearest neighbour takes the third of five pixels
        mask = np.zeros((1280, 1280), dtype=np.uint8)
        mask[2, column] = 255
        Image.fromarray(mask).save(part / "ground_truth/dent/001_mask.png")
        Image.fromarray(mask).save(part / "test/dent/001.png")
        report, problems = check(tiny_mvtec)
        assert problems == ({"warnings": 1} if lost else {})
        assert not lost or "holds 1 defect pixels, none of which is left at 256x256" in report.warnings[0]


def test_no_test_images_and_no_masks_are_warnings(tiny_mvtec):
    shutil.rmtree(tiny_mvtec / "part/ground_truth")
    report, problems = check(tiny_mvtec)
    assert problems == {"missing": 3, "warnings": 1} and "no mask in" in report.warnings[0]
    shutil.rmtree(tiny_mvtec / "part/test")
    report, problems = check(tiny_mvtec)
    assert problems == {"warnings": 1} and "no test image in" in report.warnings[0]


# --- duplicates


def test_the_same_file_in_train_and_test_names_both_once(tiny_mvtec):
    part = tiny_mvtec / "part"
    shutil.copy(part / "train/good/003.png", part / "test/good/001.png")
    report, problems = check(tiny_mvtec)
    assert problems == {"duplicates": 1, "warnings": 1}
    assert report.warnings == [f"{part}/test/good/001.png is the same file as {part}/train/good/003.png"]


def test_the_same_file_twice_within_a_split(tiny_mvtec):
    part = tiny_mvtec / "part"
    shutil.copy(part / "train/good/000.png", part / "train/good/005.png")
    shutil.copy(part / "test/good/000.png", part / "test/good/002.png")
    _, problems = check(tiny_mvtec)
    assert problems == {"warnings": 2}


def test_different_photos_of_an_aligned_object_are_no_duplicates(tmp_path):
    write_objects(tmp_path)
    photos = np.stack([object_photo(s, noise_seed=s).ravel().astype(float) for s in (0, 100)])
    assert np.corrcoef(photos)[0, 1] > 0.98  # as they are, they look alike
    report, problems = check(tmp_path)
    assert problems == {"warnings": 1} and "no anomalous test image" in report.warnings[0]


def jpeg(path, image):
    image.save(path.with_suffix(".jpg"), quality=75)


RESAVED = {
    "as JPEG": jpeg,
    "at another size": lambda path, image: image.resize((90, 90), Image.Resampling.BICUBIC).save(path),
    "in colour": lambda path, image: image.convert("RGB").save(path),
}


@pytest.mark.parametrize("how", RESAVED)
def test_a_training_image_saved_again_is_found(tmp_path, how):
    write_objects(tmp_path)
    RESAVED[how](tmp_path / "part/test/good/twin.png", Image.open(tmp_path / "part/train/good/007.png"))
    report, problems = check(tmp_path)
    assert problems == {"duplicates": 1, "warnings": 2}
    assert "twin" in report.warnings[1] and "is nearly the training image" in report.warnings[1]
    assert "train/good/007.png" in report.warnings[1]


def test_another_exposure_of_the_same_part_is_found_another_part_in_its_light_is_not(tmp_path):
    write_objects(tmp_path, train=range(40))
    for name, seed in (("same", 7), ("other", 200)):
        photo = object_photo(seed, gain=0.6, offset=20, noise_seed=999)
        Image.fromarray(photo).save(tmp_path / f"part/test/good/{name}.png")
    report, problems = check(tmp_path)
    assert problems["duplicates"] == 1 and "same.png is nearly" in report.warnings[-1]


# --- command line


def test_the_command_prints_the_table_and_exits_by_errors(tiny_mvtec, capsys):
    assert main(["data", "check", str(tiny_mvtec)]) == 0
    assert "part" in capsys.readouterr().out
    Image.new("L", (64, 64)).save(tiny_mvtec / "part/ground_truth/dent/001_mask.png")
    assert main(["data", "check", str(tiny_mvtec)]) == 0
    assert "warning: part: mask" in capsys.readouterr().out
    (tiny_mvtec / "part/train/good/000.png").write_bytes(b"")
    assert main(["data", "check", str(tiny_mvtec), "-p", "part"]) == 1
    assert "error: part: cannot decode" in capsys.readouterr().out


# --- real images


@pytest.mark.real
@pytest.mark.parametrize(
    ("root", "name", "duplicates"), [("mvtec", "bottle", 0), (".", "hazelnut_toy", 0), (".", "magnetic_tile", 6)]
)
def test_real_categories_are_sound_and_only_repeated_tiles_are_duplicates(real_data, root, name, duplicates):
    """The six tiles were looked at: each is the training image's tile in another exposure."""
    if not os.path.isdir(real_data / root / name):
        pytest.skip(f"{real_data / root} has no {name}")
    report, problems = check(real_data / root, name)
    assert problems == ({"duplicates": duplicates, "warnings": duplicates} if duplicates else {}), report.warnings
