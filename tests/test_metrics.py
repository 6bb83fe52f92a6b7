"""metrics.py against scikit-learn, a second AU-PRO written from the definition, and cases solved by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from advit.metrics import aupro, f1_max, image_metrics, pixel_metrics, pro_curve


def slow_aupro(maps, masks, limit):
    """Every distinct score as a threshold, every region one by one, trapezoids summed in a loop."""
    regions = []
    for n, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [(n, labels == k) for k in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for t in sorted(set(maps.ravel().tolist()), reverse=True):
        hit = maps >= t
        points.append(((hit & ~masks).sum() / (~masks).sum(), np.mean([hit[n][r].mean() for n, r in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1, x1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0), limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def random_case(seed, levels=None, n=3, size=12):
    rng = np.random.default_rng(seed)
    masks = ndimage.binary_dilation(rng.random((n, size, size)) > 0.97, structure=np.ones((1, 3, 2)))
    masks[0, 0, 0] = True
    maps = rng.normal(size=masks.shape) + masks
    return (np.round(maps * levels) / levels if levels else maps), masks


@pytest.mark.parametrize("levels", [None, 2, 1])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_against_the_definition(levels, limit):
    for seed in range(5):
        maps, masks = random_case(seed, levels)
        assert aupro(maps, masks, limit) == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-9)


@pytest.mark.parametrize("levels", [None, 3, 1])
def test_pixel_auroc_and_ap_against_scikit_learn(levels):
    for seed in range(5):
        maps, masks = random_case(seed, levels)
        found = pixel_metrics(maps, masks)
        assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
        assert found["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=16, max_size=16))
def test_adversarial_ties(pixels):
    maps = np.array([p[0] for p in pixels], dtype=float).reshape(1, 4, 4)
    masks = np.array([p[1] for p in pixels]).reshape(1, 4, 4)
    found = pixel_metrics(maps, masks)
    if masks.all() or not masks.any():
        assert set(found.values()) == {None}
        return
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-12)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(masks.ravel(), maps.ravel()), abs=1e-12)
    for limit in (0.05, 0.3):
        assert found[f"aupro_{limit}"] == pytest.approx(slow_aupro(maps, masks, limit), abs=1e-9)


def test_a_large_defect_found_and_a_small_one_missed():
    """By hand: AUROC (10000 + 36 / 2) / 10036 = 0.998 hides the miss; AU-PRO (1 + 0.3 / 2) / 2 = 0.575 shows it."""
    mask = np.zeros((1, 300, 300), dtype=bool)
    mask[0, 20:120, 20:120] = True
    mask[0, 200:206, 200:206] = True
    maps = np.zeros(mask.shape)
    maps[0, 20:120, 20:120] = 1
    found = pixel_metrics(maps, mask)
    assert found["pixel_auroc"] == pytest.approx(10018 / 10036)
    assert found["aupro_0.3"] == pytest.approx((1 + 0.15) / 2)
    assert found["aupro_0.05"] == pytest.approx((1 + 0.025) / 2)


def test_pencil_and_paper():
    """One region of two pixels, eight defect-free ones; scores 4, 2 inside and 3, 1 x 7 outside.

    Corners (fpr, pro): (0, 1/2) at 4, (1/8, 1/2) at 3, (1/8, 1) at 2.
    Area to 0.25: 1/8 * 1/2 + 1/8 * 1 = 3/16, over 0.25 = 3/4.
    """
    maps, masks = np.ones((1, 2, 5)), np.zeros((1, 2, 5), dtype=bool)
    masks[0, 0, :2] = True
    maps[0, 0, :3] = [4, 2, 3]
    assert aupro(maps, masks, 0.25) == pytest.approx(0.75)
    fpr, pro, thresholds = pro_curve(maps, masks)
    assert (fpr.tolist(), pro.tolist(), thresholds.tolist()) == ([0, 0.125], [0.5, 1], [4, 2])


def test_regions_touching_at_a_corner_are_one():
    masks = np.zeros((1, 6, 6), dtype=bool)
    masks[0, 1, 1] = masks[0, 2, 2] = True
    maps = np.zeros(masks.shape)
    maps[0, 1, 1] = 1
    assert pro_curve(maps, masks)[1][0] == pytest.approx(0.5)
    masks[0, 4, 4] = True  # a second region, not found
    assert pro_curve(maps, masks)[1][0] == pytest.approx(0.25)


def test_metrics_do_not_change_under_a_monotone_transform():
    maps, masks = random_case(1)
    for key, value in pixel_metrics(maps, masks).items():
        assert pixel_metrics(np.exp(3 * maps), masks)[key] == pytest.approx(value, abs=1e-12)


def test_f1_max_against_every_threshold():
    rng = np.random.default_rng(0)
    labels, scores = rng.random(40) > 0.6, np.round(rng.normal(size=40), 1)
    best = 0.0
    for t in scores:
        hit = scores >= t
        best = max(best, 2 * (hit & labels).sum() / (hit.sum() + labels.sum()))
    value, threshold = f1_max(scores, labels)
    hit = scores >= threshold
    assert value == pytest.approx(best) == pytest.approx(2 * (hit & labels).sum() / (hit.sum() + labels.sum()))


def test_image_metrics_against_scikit_learn_and_one_class():
    rng = np.random.default_rng(1)
    labels, scores = rng.random(30) > 0.5, rng.normal(size=30)
    found = image_metrics(scores, labels)
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["image_ap"] == pytest.approx(average_precision_score(labels, scores))
    assert set(image_metrics(scores, np.ones(30, dtype=bool)).values()) == {None}


@pytest.mark.parametrize(
    "maps, masks, message",
    [
        (np.full((1, 2, 2), np.nan), np.eye(2, dtype=bool)[None], "NaN or infinity"),
        (np.zeros((1, 2, 3)), np.eye(2, dtype=bool)[None], "differ in shape"),
        (np.zeros((1, 2, 2)), np.array([[[0, 255], [0, 0]]]), "other than 0 and 1"),
    ],
)
def test_bad_input_is_named(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        pixel_metrics(maps, masks)
