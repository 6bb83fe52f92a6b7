"""cache.py: its bound, its pixels, bad files, and worker processes."""

import pickle

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from advit import cache as cache_module
from advit.cache import ImageCache
from advit.data import open_category
from advit.errors import DataError
from advit.images import read_image, read_mask, resize_image, resize_mask

SIZE, MASK = 24, 16
EACH = 3 * SIZE**2


@pytest.fixture
def samples(tiny_mvtec):
    return open_category(tiny_mvtec, "part").test


@pytest.fixture
def reads(monkeypatch):
    """Names of the images decoded by the cache, in order."""
    paths = []
    monkeypatch.setattr(cache_module, "read_image", lambda path: (paths.append(path), read_image(path))[1])
    return paths


def from_disk(samples):
    return torch.stack([resize_image(read_image(s.path), SIZE) for s in samples])


def held(cache):
    """Bytes of images and masks in memory."""
    return cache._pixels.nbytes + sum(m.nbytes for m in cache._masks.values())


@pytest.mark.parametrize("kept", [0, 1, 4, 6])
def test_the_first_images_that_fit_are_decoded_once_and_the_rest_each_time(samples, reads, kept):
    cache = ImageCache(samples, SIZE, limit_bytes=kept * EACH + 5)
    expected = from_disk(samples)
    assert len(cache) == len(samples) == 6
    for _ in range(3):
        for i in range(len(cache)):
            assert torch.equal(cache[i], expected[i]) and cache[i].dtype == torch.uint8
            assert held(cache) <= kept * EACH + 5
    assert len(reads) == kept + 6 * (6 - kept)


@pytest.mark.parametrize("limit", [0, EACH - 1, EACH + MASK**2, 4 * (EACH + MASK**2) - 1, 2**30])
def test_the_bound_counts_masks_and_holds_after_fill(samples, limit):
    cache = ImageCache(samples, SIZE, mask_size=MASK, limit_bytes=limit)
    cache.fill()
    assert held(cache) <= limit
    assert len(cache._kept) == min(6, limit // (EACH + MASK**2))


def test_nothing_is_allocated_before_the_first_image(samples):
    assert held(ImageCache(samples, 1024)) == 0


@pytest.mark.parametrize("limit", [0, 3 * EACH, 2**30])
def test_batch_keeps_the_order_asked_for(samples, limit):
    cache, expected = ImageCache(samples, SIZE, limit_bytes=limit), from_disk(samples)
    for _ in range(2):
        assert torch.equal(cache.batch([4, 0, 5, 0]), expected[[4, 0, 5, 0]])
        assert torch.equal(cache.batch(torch.tensor([1, -1])), expected[[1, 5]])
    assert cache.batch([]).shape == (0, 3, SIZE, SIZE)


def test_what_is_handed_out_may_be_changed(samples):
    cache = ImageCache(samples, SIZE, mask_size=MASK)
    cache.fill()
    image, mask = from_disk(samples)[0], cache.mask(0).clone()
    cache[0].zero_()
    cache.batch([0]).zero_()
    cache.mask(0).logical_not_()
    assert torch.equal(cache[0], image) and torch.equal(cache.mask(0), mask)


@pytest.mark.parametrize("limit", [0, 2**30])
def test_masks(samples, limit):
    cache = ImageCache(samples, SIZE, mask_size=MASK, limit_bytes=limit)
    for i, sample in enumerate(samples):
        mask = cache.mask(i)
        assert mask.dtype == torch.bool and mask.shape == (MASK, MASK)
        if sample.is_anomalous:
            assert torch.equal(mask, resize_mask(read_mask(sample.mask), MASK))
            assert int(mask.sum()) == 16  # 16 of 64 pixels a side are 4 of 16
        else:
            assert not mask.any()
    with pytest.raises(ValueError, match="without mask_size"):
        ImageCache(samples, SIZE).mask(0)


def test_indices_outside_are_refused(samples):
    cache = ImageCache(samples, SIZE, mask_size=MASK)
    for call in (cache.__getitem__, cache.mask, lambda i: cache.batch([i])):
        for index in (6, -7):
            with pytest.raises(IndexError):
                call(index)
    assert len(list(cache)) == 6  # iteration ends


def test_fill_decodes_each_file_once_and_shows_progress_only_when_asked(samples, reads, capsys):
    cache = ImageCache(samples, SIZE, mask_size=MASK)
    cache.fill()
    assert capsys.readouterr().err == ""
    cache.fill(progress=True)
    assert "decode" in capsys.readouterr().err
    cache.batch(range(6))
    assert [cache.mask(i).any() for i in range(6)] == [True] * 3 + [False] * 3
    assert reads == [s.path for s in samples]


@pytest.mark.parametrize("limit", [0, 2**30])
def test_fill_finds_a_bad_image_also_where_it_does_not_fit(samples, limit):
    samples[5].path.write_bytes(samples[5].path.read_bytes()[:60])
    cache = ImageCache(samples, SIZE, limit_bytes=limit)
    with pytest.raises(DataError, match=r"test/good/002\.png"):
        cache.fill()
    assert torch.equal(cache[1], from_disk(samples[:2])[1])  # the others remain usable


def test_fill_finds_a_mask_of_another_size(samples):
    Image.new("L", (63, 64), 255).save(samples[1].mask)
    with pytest.raises(DataError, match=r"001_mask\.png is 63x64 pixels, its image is 64x64"):
        ImageCache(samples, SIZE, mask_size=MASK).fill()


def test_an_empty_list_of_samples():
    cache = ImageCache((), SIZE)
    cache.fill()
    assert len(cache) == 0 and cache.batch([]).shape == (0, 3, SIZE, SIZE)


def test_a_pickled_cache_leaves_its_pixels_behind(samples):
    """Spawned workers get the list of files, not gigabytes."""
    cache = ImageCache(samples, 256, mask_size=MASK)
    cache.fill()
    sent = pickle.dumps(cache)
    assert len(sent) < 5000
    arrived = pickle.loads(sent)
    assert held(arrived) == 0 and torch.equal(arrived.batch(range(6)), cache.batch(range(6)))
    assert torch.equal(arrived.mask(1), cache.mask(1))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("filled", [False, True])
def test_the_same_pixels_with_and_without_workers(samples, workers, filled):
    cache = ImageCache(samples, SIZE, limit_bytes=4 * EACH)
    if filled:
        cache.fill()
    how = {"multiprocessing_context": "fork", "timeout": 60} if workers else {}
    loader = DataLoader(cache, batch_size=4, num_workers=workers, **how)
    for _ in range(2):
        assert torch.equal(torch.cat(list(loader)), from_disk(samples))


def test_a_bad_file_in_a_worker_is_named(samples):
    samples[2].path.write_bytes(b"")
    loader = DataLoader(ImageCache(samples, SIZE), num_workers=1, multiprocessing_context="fork", timeout=60)
    with pytest.raises(DataError, match=r"test/dent/002\.png: the file is empty"):
        list(loader)
