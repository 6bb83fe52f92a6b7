"""pasted.py: a valid category out of training images alone, defects that are seen, masks that hold them."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import advit.pasted as pasted
from advit.data import open_category
from advit.data_check import check_category
from advit.errors import DataError
from advit.images import read_image, read_mask
from advit.pasted import AREA, DRAWS, KINDS, SPECK, VISIBLE, marked, paste, paste_category, pasted_root

SIZE = 64


def texture(seed, size=SIZE):
    """Colour noise of two scales, uint8 ``(size, size, 3)``."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(size=(size // 8, size // 8, 3)), np.ones((8, 8, 1)))
    return np.clip(120 + 30 * coarse + 25 * rng.normal(size=(size, size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def category(tmp_path):
    """Eleven training images; what the test folders hold are no images at all."""
    root = tmp_path / "data"
    for name in ("test/good/000.png", "test/dent/000.png", "ground_truth/dent/000_mask.png"):
        (root / "part" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "part" / name).write_bytes(b"no image")
    (root / "part/train/good").mkdir(parents=True)
    for i in range(11):
        Image.fromarray(texture(i)).save(root / f"part/train/good/{i:03d}.png")
    return open_category(root, "part")


def pixels(path):
    return read_image(path).permute(1, 2, 0).numpy()


def written(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_is_a_valid_category_and_every_fifth_image_is_held_out(category, tmp_path):
    folder = paste_category(category, tmp_path / "out", size=SIZE, progress=False)
    assert folder == tmp_path / "out" / "part" and [p.name for p in folder.parent.iterdir()] == ["part"]
    found = open_category(tmp_path / "out", "part")
    assert [s.path.name for s in found.train] == [f"{i:04d}.png" for i in (0, 1, 2, 3, 5, 6, 7, 8, 10)]
    assert sorted((s.defect, s.path.stem) for s in found.test) == sorted(
        (kind, name) for kind in ("good", *KINDS) for name in ("0004", "0009")
    )
    assert not check_category(tmp_path / "out", "part").errors
    train = {pixels(s.path).tobytes() for s in found.train}
    assert train == {texture(i).tobytes() for i in (0, 1, 2, 3, 5, 6, 7, 8, 10)}  # of the same size: nothing changed
    for sample in found.test:
        sound, shown = texture(int(sample.path.stem)), pixels(sample.path)
        assert sound.tobytes() not in train
        if not sample.is_anomalous:
            assert np.array_equal(shown, sound)
            continue
        mask = read_mask(sample.mask, (SIZE, SIZE)).numpy() > 0
        change = np.abs(shown.astype(int) - sound).max(axis=-1)
        assert AREA[0] <= mask.mean() <= AREA[1]
        assert change[mask].max() >= VISIBLE
        assert change[~mask].max() < VISIBLE  # at 64 px every pixel is larger than a speck


def test_images_are_scaled_to_the_size_asked_for(category, tmp_path):
    folder = paste_category(category, tmp_path, size=32, progress=False)
    shapes = {pixels(p).shape for p in folder.rglob("*.png")}
    assert shapes == {(32, 32, 3)}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_defects(category, tmp_path):
    one, two, other = (
        written(paste_category(category, tmp_path / str(i), size=32, seed=seed, progress=False))
        for i, seed in enumerate((0, 0, 1))
    )
    assert one == two and one.keys() == other.keys()
    for name in one:
        sound = name.startswith("train") or name.startswith("test/good")
        assert (one[name] == other[name]) == sound, name


def test_pieces_come_from_images_that_are_not_held_out(category, tmp_path, monkeypatch):
    donors = []

    def spy(kind, image, other, rng):
        donors.append(other.tobytes())
        return paste(kind, image, other, rng)

    monkeypatch.setattr(pasted, "paste", spy)
    paste_category(category, tmp_path, size=SIZE, progress=False)
    kept = {texture(i).tobytes() for i in (0, 1, 2, 3, 5, 6, 7, 8, 10)}
    assert len(donors) == 2 * len(KINDS) and set(donors) <= kept and len(set(donors)) > 2


def test_at_most_forty_images_are_held_out(tmp_path, monkeypatch):
    (tmp_path / "data/part").mkdir(parents=True)
    for i in range(12):
        Image.fromarray(texture(i, 16)).save(tmp_path / f"data/part/{i:02d}.png")
    few = open_category(tmp_path / "data", "part")
    many = few.__class__(few.name, few.root, few.layout, few.train * 20, ())
    monkeypatch.setattr(pasted, "KINDS", {})
    folder = paste_category(many, tmp_path / "out", size=16, progress=False)
    held = sorted(int(p.stem) for p in (folder / "test/good").iterdir())
    assert len(held) == 40 and len(list((folder / "train/good").iterdir())) == 200
    assert held[0] == 4 and set(np.diff(held)) == {6}


@pytest.mark.parametrize("again, held", [(0, [4, 9, 14]), (6, [10, 15]), (12, [4, 9, 14])])
def test_photographs_that_others_repeat_are_not_held_out_unless_few_others_are_left(tmp_path, monkeypatch, again, held):
    """17 images; the first of them stands for the ``again`` first ones, each time in another light."""
    folder = tmp_path / "data/part"
    folder.mkdir(parents=True)
    for i in range(17):
        image = 0.5 * texture(0) + 4 * i if i < again else texture(i)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i:02d}.png")
    monkeypatch.setattr(pasted, "KINDS", {})
    out = paste_category(open_category(tmp_path / "data", "part"), tmp_path / "out", size=SIZE, progress=False)
    assert sorted(int(p.stem) for p in (out / "test/good").iterdir()) == held


def test_fewer_than_ten_images_are_too_few(tiny_mvtec, tmp_path):
    category = open_category(tiny_mvtec, "part")
    with pytest.raises(DataError) as error:
        paste_category(category, tmp_path / "out")
    assert str(error.value) == f"{category.root} has 6 training images; a validation set needs 10."
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(category, tmp_path):
    (tmp_path / "out/part").mkdir(parents=True)
    with pytest.raises(DataError, match=r"out/part exists\. Remove it, or write elsewhere\.$"):
        paste_category(category, tmp_path / "out", size=32, progress=False)
    assert not list((tmp_path / "out/part").iterdir())


def test_a_broken_training_image_leaves_no_half_category_and_the_next_try_starts_afresh(category, tmp_path):
    path = category.train[7].path
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"007\.png"):
        paste_category(category, tmp_path / "out", size=32, progress=False)
    assert not (tmp_path / "out").exists()
    path.write_bytes(whole)
    left = tmp_path / "out/.part.part/train/good/9999.png"  # of a killed try
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left over")
    folder = paste_category(category, tmp_path / "out", size=32, progress=False)
    assert written(folder) == written(paste_category(category, tmp_path / "new", size=32, progress=False))


def test_a_stored_set_is_made_once_and_again_when_a_training_image_changes(category, tmp_path, monkeypatch):
    made, store = [], tmp_path / "store"
    make = pasted.paste_category
    monkeypatch.setattr(pasted, "paste_category", lambda *a, **k: made.append(a) or make(*a, **k))
    root = pasted_root(category, store, size=32, progress=False)
    assert root == pasted_root(category, store, size=32, progress=False) and len(made) == 1
    assert root.parent == store and len(open_category(root, "part").train) == 9
    category.test[0].path.write_bytes(b"another")
    assert pasted_root(category, store, size=32, progress=False) == root  # test images count for nothing
    assert pasted_root(category, store, size=32, seed=1, progress=False) != root
    Image.fromarray(texture(99)).save(category.train[0].path)
    assert pasted_root(category, store, size=32, progress=False) != root and len(made) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leaves_a_visible_defect_of_its_own_on_a_texture(kind, monkeypatch):
    calls = []
    for name, draw in KINDS.items():
        monkeypatch.setitem(KINDS, name, lambda *a, name=name, draw=draw: calls.append(name) or draw(*a))
    for seed in range(6):
        image = texture(seed)
        shown, mask = paste(kind, image, texture(seed + 50), np.random.default_rng(seed))
        assert shown.dtype == np.uint8 and shown.shape == image.shape and mask.shape == (SIZE, SIZE)
        change = np.abs(shown.astype(int) - image).max(axis=-1)
        assert AREA[0] <= mask.mean() <= AREA[1]
        assert (change[mask] >= VISIBLE).mean() > 0.3 and change[~mask].max() < VISIBLE
    assert set(calls) == {kind}


def test_a_smear_blurs_a_scratch_is_thin_and_a_stain_is_one_piece():
    rng, image, blurred = np.random.default_rng(3), texture(1, 128), 0
    for _ in range(16):
        shown, mask = paste("smear", image, image, rng)
        inner = ndimage.binary_erosion(mask, iterations=4)
        if inner.sum() >= 20:
            grain = [np.abs(np.diff(v.astype(float), axis=1))[inner[:, 1:]].mean() for v in (shown, image)]
            assert grain[0] < 0.5 * grain[1]
            blurred += 1
    assert blurred >= 3
    for _ in range(5):
        _, mask = paste("scratch", image, image, rng)
        assert not ndimage.binary_erosion(mask, iterations=6).any()
        plain = np.full_like(image, 120)
        assert ndimage.label(paste("stain", plain, plain, rng)[1])[1] == 1


def test_a_stain_takes_over_where_a_smear_leaves_no_trace(monkeypatch):
    calls = []
    for name, draw in KINDS.items():
        monkeypatch.setitem(KINDS, name, lambda *a, name=name, draw=draw: calls.append(name) or draw(*a))
    plain = np.full((SIZE, SIZE, 3), 120, np.uint8)
    shown, mask = paste("smear", plain, plain, np.random.default_rng(0))
    assert calls[:DRAWS] == ["smear"] * DRAWS and set(calls[DRAWS:]) == {"stain"}
    assert AREA[0] <= mask.mean() <= AREA[1] and (shown != plain).any()


def test_specks_are_left_unmarked_and_the_largest_of_them_is_known():
    """At 256 px a speck has up to 6 pixels, 1e-4 of the image."""
    changed = np.zeros((256, 256), bool)
    changed[10:12, 10:13] = True  # 6 pixels
    changed[100, 100:107] = True  # 7
    mask = marked(changed)
    assert not mask[:50].any() and mask[100, 100:107].all() and mask.sum() == 7
    assert not marked(np.zeros((64, 64), bool)).any() and marked(np.ones((64, 64), bool)).all()


def test_small_gaps_are_closed_also_at_the_border_and_large_ones_are_left():
    changed = np.zeros((64, 64), bool)
    changed[:20, :20] = changed[:20, 23:40] = True
    changed[:20, 52:] = True
    mask = marked(changed)
    assert mask[2:18, 20:23].all() and not mask[:, 40:52].any() and not mask[20:].any()
    assert (mask >= changed).all()


def test_what_changed_visibly_outside_a_mask_is_specks_only():
    size, specks = 256, 0
    for seed in range(4):
        image, other = texture(seed, size), texture(seed + 50, size)
        for kind in ("transplant", "cloud"):
            shown, mask = paste(kind, image, other, np.random.default_rng(seed))
            seen = np.abs(shown.astype(int) - image).max(axis=-1) >= VISIBLE
            pieces, count = ndimage.label(seen & ~mask, np.ones((3, 3)))
            specks += count
            assert np.bincount(pieces.ravel())[1:].max(initial=0) <= SPECK * size**2
            assert marked(seen).sum() == mask.sum()
    assert specks > 0  # so it does happen
