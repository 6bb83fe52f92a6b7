"""Metrics against pencil cases, scikit-learn, and slow loops written from the definitions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from advit.metrics import aupro, f1_max, image_metrics, pixel_metrics, pro_curve, region_weights


def regions_of(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected regions by flood fill, independent of scipy.ndimage."""
    left, regions = set(map(tuple, np.argwhere(mask).tolist())), []
    while left:
        region, front = set(), [left.pop()]
        while front:
            y, x = front.pop()
            region.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        regions.append(region)
    return regions


def slow_aupro(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    """From the definition: loop over every threshold and every region, then integrate segment by segment."""
    free = [float(v) for v, m in zip(maps.ravel(), masks.ravel(), strict=True) if not m]
    regions = [[float(maps[i, y, x]) for y, x in region] for i in range(len(maps)) for region in regions_of(masks[i])]
    points = [(0.0, 0.0)]
    for t in sorted({float(v) for v in maps.ravel()}, reverse=True):
        overlap = sum(sum(v >= t for v in region) / len(region) for region in regions) / len(regions)
        points.append((sum(v >= t for v in free) / len(free), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def pencil_case(tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Ten defect-free pixels, a region of two (scores 9, 5) and one of one (7); defect-free ones reach 8 and 6."""
    maps = np.zeros((1, 1, 13), dtype=np.float32)
    masks = np.zeros((1, 1, 13), dtype=bool)
    masks[0, 0, [0, 1, 4]] = True
    maps[0, 0, [0, 1, 4]] = 9, 5, 7
    maps[0, 0, [8, 10]] = 7 if tied else 8, 6
    return maps, masks


def test_large_defect_found_small_one_missed() -> None:
    masks = np.zeros((1, 300, 300), dtype=bool)
    masks[0, 20:120, 30:130] = True
    maps = masks.astype(np.float32)
    masks[0, 200:206, 200:206] = True  # scored like background
    values = pixel_metrics(maps, masks)
    assert values["pixel_auroc"] == pytest.approx((10000 + 18) / 10036, abs=1e-12)  # 0.998
    assert values["aupro_0.3"] == pytest.approx((1 + 0.15) / 2, abs=1e-12)  # 0.575
    assert values["aupro_0.05"] == pytest.approx((1 + 0.025) / 2, abs=1e-12)


def test_pencil_case() -> None:
    maps, masks = pencil_case()  # PRO 1/4, 3/4, 1 on three steps of FPR 0.1
    assert aupro(maps, masks, 0.3) == pytest.approx(2 / 3, abs=1e-12)
    assert aupro(maps, masks, 0.15) == pytest.approx((0.1 / 4 + 0.05 * 3 / 4) / 0.15, abs=1e-12)
    assert aupro(maps, masks, 0.05) == pytest.approx(1 / 4, abs=1e-12)
    assert aupro(maps, masks, 1.0) == pytest.approx(0.1 / 4 + 0.1 * 3 / 4 + 0.8, abs=1e-12)


def test_tied_pixels_enter_together() -> None:
    maps, masks = pencil_case(tied=True)  # PRO rises from 1/4 to 3/4 on a straight line over FPR 0 to 0.1
    assert aupro(maps, masks, 0.3) == pytest.approx((0.1 / 2 + 0.1 * 3 / 4 + 0.1) / 0.3, abs=1e-12)
    assert aupro(maps, masks, 0.05) == pytest.approx((1 / 4 + 1 / 2) / 2, abs=1e-12)


def test_regions_touching_at_a_corner_are_one() -> None:
    rows = [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
    # two regions of two pixels in the first image, one of four in the second: never joined across images
    assert region_weights(np.array(rows, dtype=bool)) == pytest.approx(np.array([1 / 6] * 4 + [1 / 12] * 4))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("levels", [3, 40, None])
def test_pixel_metrics_against_scikit_learn_and_the_definition(dtype: type, levels: int | None) -> None:
    rng = np.random.default_rng(levels or 0)
    masks = np.zeros((3, 9, 11), dtype=bool)
    masks[0, 1:4, 2:6], masks[0, 6, 7], masks[2, 0:2, 8:11], masks[2, 5:9, 0] = True, True, True, True
    maps = (rng.standard_normal(masks.shape) + masks).astype(dtype)
    if levels:
        maps = np.round(maps * levels / 6)
    values = pixel_metrics(maps, masks.astype(np.uint8))
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert values["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    for limit in (0.3, 0.05):
        assert values[f"aupro_{limit}"] == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-12)
        assert values[f"aupro_{limit}"] == aupro(maps, masks, limit)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(2, 6)))
def test_any_small_case_agrees_with_the_definition(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    masks = data.draw(hnp.arrays(bool, shape))
    maps = data.draw(hnp.arrays(np.float32, shape, elements=st.integers(-3, 3)))
    limit = data.draw(st.sampled_from([0.05, 0.3, 1.0]))
    if masks.all() or not masks.any():
        assert set(pixel_metrics(maps, masks).values()) == {None} and aupro(maps, masks, limit) is None
        return
    assert aupro(maps, masks, limit) == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-12)
    values = pixel_metrics(maps, masks)
    assert values["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert values["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)


def test_monotone_transform_and_order_of_images_change_nothing() -> None:
    rng = np.random.default_rng(5)
    maps, masks = rng.standard_normal((4, 8, 10)), rng.random((4, 8, 10)) < 0.2
    expected = pixel_metrics(maps, masks)
    assert pixel_metrics(np.exp(3 * maps) - 7, masks) == pytest.approx(expected, abs=1e-12)
    assert pixel_metrics(maps[::-1], masks[::-1]) == pytest.approx(expected, abs=1e-12)
    before = maps.copy(), masks.copy()
    pixel_metrics(maps, masks)
    assert np.array_equal(maps, before[0]) and np.array_equal(masks, before[1])


def test_constant_and_perfect_maps() -> None:
    masks = np.zeros((2, 6, 7), dtype=bool)
    masks[1, 2:4, 3:5] = True
    constant = pixel_metrics(np.full(masks.shape, 0.25), masks)
    expected = {"pixel_auroc": 0.5, "pixel_ap": masks.mean(), "aupro_0.3": 0.15, "aupro_0.05": 0.025}
    assert constant == pytest.approx(expected, abs=1e-12)
    assert set(pixel_metrics(masks.astype(float), masks).values()) == {1.0}
    assert pixel_metrics(1.0 - masks, masks)["aupro_0.3"] == 0.0


def test_pro_curve_is_what_its_thresholds_give() -> None:
    rng = np.random.default_rng(2)
    masks = rng.random((2, 7, 8)) < 0.25
    maps = np.round(rng.standard_normal(masks.shape) + masks, 1).astype(np.float32)
    fpr, pro, thresholds = pro_curve(maps, masks)
    assert (fpr[0], pro[0], fpr[-1]) == (0, 0, 1) and pro[-1] == pytest.approx(1)
    assert (np.diff(fpr) >= 0).all() and (np.diff(pro) >= 0).all() and (np.diff(thresholds) < 0).all()
    regions = [(i, list(region)) for i in range(2) for region in regions_of(masks[i])]
    for x, y, t in zip(fpr, pro, thresholds, strict=True):
        found = maps >= t
        assert x == pytest.approx(found[~masks].mean(), abs=1e-12)
        assert y == pytest.approx(np.mean([np.mean([found[i][p] for p in region]) for i, region in regions]), abs=1e-12)
    assert all(a.size == 0 for a in pro_curve(maps, np.zeros_like(masks)))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(2, 12))
def test_image_metrics_against_scikit_learn_and_brute_force(data: st.DataObject, n: int) -> None:
    labels = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    scores = np.array(data.draw(st.lists(st.integers(-4, 4), min_size=n, max_size=n)), dtype=np.float32) / 4
    values = image_metrics(scores, labels)
    if labels.all() or not labels.any():
        assert set(values.values()) == {None} and f1_max(scores, labels) == (None, None)
        return
    assert values["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert values["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    brute = {t: f1_score(labels, scores >= t) for t in scores.tolist()}
    best, threshold = f1_max(scores, labels)
    assert best == values["image_f1max"] == pytest.approx(max(brute.values()), abs=1e-12)
    assert threshold == max(t for t, f1 in brute.items() if f1 == pytest.approx(best, abs=1e-12))


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (np.full((1, 2, 2), np.nan), np.eye(2, dtype=bool)[None], r"maps must be finite: nan at index \[0, 0, 0\], 4"),
        (np.array([[[0, np.inf]]]), np.array([[[True, False]]]), "finite: inf"),
        (np.zeros((1, 2, 2)), np.zeros((1, 2, 3), dtype=bool), r"shape \(n, h, w\), not maps \(1, 2, 2\)"),
        (np.zeros((2, 2)), np.eye(2, dtype=bool), r"shape \(n, h, w\)"),
        (np.zeros((1, 2, 2)), np.array([[[0, 255], [0, 0]]]), "masks must be binary"),
        (np.zeros((1, 2, 2)), np.array([[[0, np.nan], [0, 0]]]), "masks must be binary"),
    ],
)
def test_bad_pixel_input_is_refused(maps: np.ndarray, masks: np.ndarray, message: str) -> None:
    for function in (pixel_metrics, aupro, pro_curve):
        with pytest.raises(ValueError, match=message):
            function(maps, masks)


def test_bad_image_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores must be finite: nan at index \[1\]"):
        image_metrics([0.1, float("nan")], [0, 1])
    with pytest.raises(ValueError, match="labels must be binary"):
        image_metrics([0.1, 0.2], [0, 2])
    with pytest.raises(ValueError, match=r"shape \(n,\)"):
        f1_max([0.1, 0.2], [0, 1, 1])
    for limit in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="limit must lie in"):
            aupro(*pencil_case(), limit)
