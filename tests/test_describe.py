"""describe.py: counts and sizes by hand, position against a loop, a blind map against the same map repeated."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from advit.cache import ImageCache
from advit.calibration import fit_standardiser
from advit.data import open_category
from advit.describe import (
    Position,
    bars_to_beat,
    blind_metrics,
    counts,
    defect_sizes,
    examples,
    position_statistics,
    size_table,
    typical_samples,
)
from advit.metrics import pixel_metrics


@pytest.fixture
def part(tiny_mvtec):
    """Six training images; three defect-free and three dented test images, each dent 256 of 4096 pixels."""
    return open_category(tiny_mvtec, "part")


def repaint(category, stem: str, boxes: list[tuple[slice, slice]]) -> None:
    mask = np.zeros((64, 64), np.uint8)
    for box in boxes:
        mask[box] = 255
    Image.fromarray(mask).save(category.root / "ground_truth" / "dent" / f"{stem}_mask.png")


def test_counts(part):
    assert counts([part]).values.tolist() == [
        ["part", "train", "good", 6, 0],
        ["part", "test", "dent", 3, 3],
        ["part", "test", "good", 3, 0],
    ]


def test_sizes_and_regions_touching_at_a_corner_are_one(part):
    repaint(part, "001", [(slice(0, 2), slice(0, 2)), (slice(2, 4), slice(2, 4)), (slice(60, 64), slice(0, 4))])
    sizes = defect_sizes(part)
    assert sizes["image"].tolist() == ["000", "001", "002"]
    assert sizes["share"].tolist() == pytest.approx([256 / 4096, 24 / 4096, 256 / 4096])
    assert sizes["regions"].tolist() == [1, 2, 1]
    table = size_table(sizes)
    columns = ["category", "kind", "images", "median %", "smallest %", "largest %", "regions per image"]
    assert table.columns.tolist() == columns
    assert table.iloc[0, 2:].tolist() == pytest.approx([3, 6.25, 100 * 24 / 4096, 6.25, 4 / 3])


def test_the_example_of_a_kind_has_the_median_size(part):
    repaint(part, "000", [(slice(0, 2), slice(0, 2))])
    repaint(part, "002", [(slice(0, 50), slice(0, 50))])
    sizes = defect_sizes(part)
    assert [(kind, s.path.stem) for kind, s in typical_samples(part, sizes)] == [("good", "000"), ("dent", "001")]
    (_, good, empty), (_, image, mask) = examples(part, sizes)
    assert good.shape == image.shape == (64, 64, 3) and not empty.any()
    assert (image[mask] == 255).all() and mask.sum() == 256


def test_without_masks_there_are_no_sizes_but_examples(tiny_mvtec):
    for path in sorted((tiny_mvtec / "part" / "ground_truth").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tiny_mvtec / "part" / "ground_truth").rmdir()
    category = open_category(tiny_mvtec, "part")
    sizes = defect_sizes(category)
    assert sizes["share"].isna().all() and len(sizes) == 3
    assert [s.path.stem for _, s in typical_samples(category, sizes)] == ["000", "000"]
    assert size_table(sizes)["images"].tolist() == [3]
    cache = ImageCache(category.test, 64, mask_size=64)
    assert np.isnan(blind_metrics(Position(np.zeros((64, 64)), np.ones((64, 64)), 0.0), cache)["pixel_auroc"])


def test_position_share_is_that_of_the_standardiser(part):
    cache = ImageCache(part.train, 32)
    grey = np.stack([0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (cache[i].double().numpy() for i in range(6))])
    found = position_statistics(cache)
    assert np.allclose(found.mean, grey.mean(axis=0), atol=1e-3)
    assert np.allclose(found.sd, grey.std(axis=0), atol=1e-3)
    assert found.share == pytest.approx(fit_standardiser(grey, "position").position_share, abs=1e-5)


def test_position_explains_all_of_equal_images_and_nothing_of_noise():
    rng = np.random.default_rng(0)
    pattern, noise = rng.integers(0, 255, (1, 3, 16, 16)), rng.integers(0, 255, (60, 3, 16, 16))
    assert position_statistics(pattern.repeat(5, axis=0)).share == 1.0
    assert position_statistics(noise).share < 0.02


def test_a_blind_map_scores_every_image_alike(part):
    rng = np.random.default_rng(0)
    test = ImageCache(part.test, 64, mask_size=64)
    found = blind_metrics(Position(np.zeros((64, 64)), rng.random((64, 64)), 0.0), test)
    assert found["image_auroc"] == 0.5
    at_the_dents = np.zeros((64, 64))
    at_the_dents[5:41, 20:36] = 1
    found = blind_metrics(Position(np.zeros((64, 64)), at_the_dents, 0.0), test)
    assert found["image_auroc"] == 0.5 and found["pixel_auroc"] > 0.9
    from advit.baselines import finished

    masks = np.stack([test.mask(i).numpy() for i in range(6)])
    maps = np.stack([finished(at_the_dents, 64)] * 6)
    assert found["aupro_0.3"] == pixel_metrics(maps, masks)["aupro_0.3"]


def test_bars_name_one_floor_for_all_and_the_best_of_each():
    floors = pd.DataFrame({
        "variant": ["a", "b", "a", "b"], "category": ["x", "x", "y", "y"],
        "image_auroc": [0.9, 0.6, 0.7, 0.8], "pixel_auroc": [np.nan] * 4, "pixel_ap": [0.5, 0.4, np.nan, np.nan],
    })  # fmt: skip
    bars = bars_to_beat(floors, {"image_auroc": "I", "pixel_auroc": "P", "pixel_ap": "A"})
    assert bars.values.tolist() == [
        ["I", "x", "a", 0.9, "a", 0.9],
        ["I", "y", "a", 0.7, "b", 0.8],
        ["I", "mean", "a", pytest.approx(0.8), "each its best", pytest.approx(0.85)],
        ["A", "x", "a", 0.5, "a", 0.5],
    ]


def test_a_category_without_test_images_has_nothing_to_judge(tiny_mvtec):
    for path in sorted((tiny_mvtec / "part").rglob("*"), reverse=True):
        if "train" not in path.parts:
            path.unlink() if path.is_file() else path.rmdir()
    category = open_category(tiny_mvtec, "part")
    sizes = defect_sizes(category)
    assert len(sizes) == len(size_table(sizes)) == 0
    assert [kind for kind, _, _ in examples(category, sizes)] == ["good"]
    position = position_statistics(ImageCache(category.train, 32))
    blind = blind_metrics(position, ImageCache(category.test, 32, mask_size=32))
    assert len(blind) == 7 and all(np.isnan(v) for v in blind.values())
