"""The embedded data set: layout, exact masks, seeds, refusal to overwrite, and a floor that does not solve it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from advit import synthetic
from advit.errors import AdvitError, ConfigError, DataError
from advit.synthetic import CATEGORIES, DEFECTS, defects_of, embedded_root, photograph, write_dataset

KINDS = [(name, kind) for name in CATEGORIES for kind in defects_of(name)]
SMALL = {"image_size": 64, "n_train": 3, "n_test_good": 2, "n_per_defect": 2}


def digest(folder):
    """Of names and decoded pixels, which do not depend on the version of zlib."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.png")):
        found.update(path.relative_to(folder).as_posix().encode())
        found.update(np.asarray(Image.open(path)).tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "synthetic", seed=0, **SMALL)


def test_layout_is_that_of_mvtec_ad(dataset):
    assert {p.name for p in dataset.iterdir()} == {*CATEGORIES, "README.txt", "synthetic.json"}
    for name in CATEGORIES:
        root, kinds = dataset / name, defects_of(name)
        assert len(kinds) >= 5
        assert {p.name for p in root.iterdir()} == {"train", "test", "ground_truth"}
        assert [p.name for p in sorted((root / "train/good").iterdir())] == ["000.png", "001.png", "002.png"]
        assert {p.name for p in (root / "test").iterdir()} == {"good", *kinds}
        assert {p.name for p in (root / "ground_truth").iterdir()} == set(kinds)
        for kind in kinds:
            images, masks = sorted((root / "test" / kind).iterdir()), sorted((root / "ground_truth" / kind).iterdir())
            assert [p.stem + "_mask" for p in images] == [p.stem for p in masks]
            for image, mask in zip(images, masks, strict=True):
                assert Image.open(image).mode == "RGB" and Image.open(image).size == (64, 64)
                assert set(np.unique(np.asarray(Image.open(mask)))) == {0, 255}
    assert "CC0" in (dataset / "README.txt").read_text()


def test_files_hold_the_drawn_pixels(dataset):
    picture = photograph("gear", "crack", 1, seed=0, image_size=64)
    assert (np.asarray(Image.open(dataset / "gear/test/crack/001.png")) == picture.image).all()
    mask = np.asarray(Image.open(dataset / "gear/ground_truth/crack/001_mask.png"))
    assert ((mask == 255) == picture.mask).all()


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_mask_is_exactly_what_the_defect_changed(name, kind):
    for index in range(2):
        picture = photograph(name, kind, index, seed=3, image_size=128)
        change = np.abs(picture.image.astype(int) - picture.clean).max(-1)
        assert (change[~picture.mask] == 0).all()
        assert (change[picture.mask] >= 5).mean() > 0.75
        assert change[picture.mask].max() > 20  # a person sees it
        assert 0.001 <= picture.mask.mean() <= 0.06


def test_defects_are_small_and_large():
    """Every category has defects below 0.5 % and above 2 % of the image."""
    for name in CATEGORIES:
        areas = [photograph(name, kind, i, image_size=64).mask.mean() for kind in defects_of(name) for i in range(8)]
        assert min(areas) < 0.005 and max(areas) > 0.02, (name, min(areas), max(areas))


def test_seed_decides_every_pixel(tmp_path, dataset):
    again = write_dataset(tmp_path / "again", seed=0, **SMALL)
    other = write_dataset(tmp_path / "other", seed=1, **SMALL)
    assert digest(again) == digest(dataset) != digest(other)


def test_a_subset_has_the_pixels_of_the_whole(tmp_path, dataset):
    few = SMALL | {"n_train": 1, "n_per_defect": 1}
    part = write_dataset(tmp_path / "part", seed=0, categories=["weave"], **few)
    for path in part.rglob("*.png"):
        whole = dataset / path.relative_to(part)
        assert (np.asarray(Image.open(path)) == np.asarray(Image.open(whole))).all()


def test_no_two_images_are_alike():
    for name in CATEGORIES:
        streams = ("train", "good", *defects_of(name))
        seen = {photograph(name, s, i, image_size=64).clean.tobytes() for s in streams for i in range(2)}
        assert len(seen) == 2 * len(streams)


def test_complete_data_set_is_reused_and_damaged_one_rewritten(tmp_path, monkeypatch):
    few = SMALL | {"categories": ["terrazzo"], "n_train": 1, "n_test_good": 1, "n_per_defect": 1}
    out = write_dataset(tmp_path / "out", **few)
    before = digest(out)
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "photograph", None)  # drawing anything would fail
        assert write_dataset(out, **few) == out
    (out / "terrazzo/test/good/000.png").unlink()
    assert digest(write_dataset(out, **few)) == before
    write_dataset(out, seed=1, **few)
    assert json.loads((out / "synthetic.json").read_text())["seed"] == 1 and digest(out) != before


def test_foreign_files_are_never_overwritten(tmp_path):
    few = SMALL | {"categories": ["weave"], "n_train": 1, "n_test_good": 0, "n_per_defect": 0}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        write_dataset(tmp_path / "mine", **few)
    with pytest.raises(DataError, match="is a file"):
        write_dataset(tmp_path / "mine/notes.txt", **few)
    out = write_dataset(tmp_path / "out", **few)
    (out / "weave/notes.txt").write_text("keep")
    with pytest.raises(DataError, match=r"notes\.txt"):
        write_dataset(out, seed=1, **few)
    assert (out / "weave/notes.txt").read_text() == "keep" and (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    draw, calls = synthetic.photograph, []

    def fail_on_third(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(synthetic, "photograph", fail_on_third)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "out", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_of_two_calls_at_once_the_second_takes_what_the_first_has_written(tmp_path, monkeypatch):
    few = SMALL | {"categories": ["weave"], "n_train": 2, "n_test_good": 0, "n_per_defect": 0}
    draw, both, drawn = synthetic.photograph, threading.Barrier(2), []

    def slow(*args, **kwargs):
        drawn.append(threading.get_ident())
        time.sleep(0.2)
        return draw(*args, **kwargs)

    def call():
        both.wait()
        files = write_dataset(tmp_path / "out", **few).rglob("*.png")
        return {path.name: path.stat().st_ino for path in files}

    monkeypatch.setattr(synthetic, "photograph", slow)
    with ThreadPoolExecutor(2) as pool:
        one, two = (call.result() for call in [pool.submit(call) for _ in range(2)])
    assert one == two and len(one) == 2 and len(drawn) == 2


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    save = Image.Image.save

    def full(picture, path, **options):
        if path.name == "001.png":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(picture, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    advice = "No space left on device. Free some space or choose another folder."
    with pytest.raises(AdvitError) as error:
        write_dataset(tmp_path / "out", **SMALL)
    assert str(error.value) == f"Cannot write {tmp_path}/out: {advice}"
    with pytest.raises(AdvitError) as error:
        embedded_root("set", **SMALL)
    hint = "$XDG_CACHE_HOME says where the embedded data lie."
    assert str(error.value) == f"Cannot write {tmp_path}/advit/set: {advice} {hint}"
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("advit", ".out.lock", ".set.lock")]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'weave'"):
        write_dataset(tmp_path / "out", categories=["waeve"])
    with pytest.raises(ConfigError, match="n_train is 0"):
        write_dataset(tmp_path / "out", n_train=0)
    with pytest.raises(ConfigError, match="seed is -1"):
        write_dataset(tmp_path / "out", seed=-1)
    with pytest.raises(ConfigError, match="Did you mean 'crack'"):
        photograph("gear", "crak", 0)
    with pytest.raises(ConfigError, match="bent_part"):
        photograph("terrazzo", "bent_part", 0)
    assert list(tmp_path.iterdir()) == [] and "bent_part" in DEFECTS


@pytest.mark.parametrize("name", CATEGORIES)
def test_z_score_per_pixel_does_not_solve_it(name):
    """Image AUROC of max |x - mean| / sd, smoothed, lies between 0.6 and 0.95 (half the size, sigma 2)."""

    def grey(stream, count):
        images = [photograph(name, stream, i, image_size=128).image for i in range(count)]
        return np.stack(images) @ np.array((0.299, 0.587, 0.114)) / 255

    train = grey("train", 40)
    mean, sd = train.mean(0), np.maximum(train.std(0), 1 / 255)

    def scores(stream, count):
        return [gaussian_filter(np.abs(x - mean) / sd, 2).max() for x in grey(stream, count)]

    good = scores("good", 20)
    bad = [score for kind in defects_of(name) for score in scores(kind, 4)]
    assert 0.6 < roc_auc_score([0] * len(good) + [1] * len(bad), good + bad) < 0.95
