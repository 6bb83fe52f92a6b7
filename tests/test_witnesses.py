"""The metrics against scikit-learn, torchmetrics and a second AU-PRO, on random and on adversarial inputs.

tests/test_metrics.py has cases by hand and a slow AU-PRO by flood fill; here is one by labels and sorted values,
fast enough for maps of a real size. Everything agrees to 1e-9, torchmetrics to what its float32 sums allow.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

import advit.vision  # noqa: F401  (before torchmetrics, which imports torchvision)
from advit.metrics import aupro, image_metrics, pixel_metrics

RNG = np.random.default_rng(11)


def second_aupro(maps, masks, limit):
    """AU-PRO from the definition: share of each region found, and of defect-free pixels, at every threshold."""
    free, regions = maps[~masks], []
    for values, mask in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [np.sort(values[labelled == i]) for i in range(1, count + 1)]
    free, thresholds = np.sort(free), np.unique(maps)[::-1]
    fpr = np.concatenate([[0], 1 - np.searchsorted(free, thresholds) / len(free)])
    pro = np.concatenate([[0], np.mean([1 - np.searchsorted(r, thresholds) / len(r) for r in regions], axis=0)])
    inside = fpr < limit
    x, y = np.append(fpr[inside], limit), np.append(pro[inside], np.interp(limit, fpr, pro))
    if len(x) > 1 and (fpr == limit).any():
        y[-1] = pro[np.flatnonzero(fpr == limit)[0]]
    return np.trapezoid(y, x) / limit


def blank(*shape):
    return np.zeros(shape, dtype=bool)


def with_pixels(shape, *places):
    masks = blank(*shape)
    for place in places:
        masks[place] = True
    return masks


def corners_touching():
    """Squares that meet at a corner only: one region under eight neighbours."""
    masks = blank(2, 12, 12)
    masks[0, 2:4, 2:4], masks[0, 4:6, 4:6], masks[1, 6:9, 3:6], masks[1, 9:10, 6:8] = True, True, True, True
    return masks


def checkerboard():
    return np.indices((2, 10, 10)).sum(axis=0) % 2 == 0


MASKS = {
    "one pixel": with_pixels((1, 9, 7), (0, 4, 3)),
    "one pixel in a corner": with_pixels((2, 9, 7), (1, 8, 6)),
    "all four corners": with_pixels((1, 9, 7), (0, 0, 0), (0, 0, 6), (0, 8, 0), (0, 8, 6)),
    "frame": ~np.pad(np.ones((1, 7, 5), bool), ((0, 0), (1, 1), (1, 1))),
    "touching corners": corners_touching(),
    "checkerboard": checkerboard(),
    "one image all defect": np.stack([np.ones((6, 5), bool), np.zeros((6, 5), bool)]),
    "all but one pixel": ~with_pixels((1, 6, 5), (0, 2, 2)),
    "one region of many pixels and many of one": np.concatenate(
        [np.pad(np.ones((1, 8, 8), bool), ((0, 0), (2, 2), (2, 2))), (np.indices((1, 12, 12)) % 3 == 1)[1:].all(axis=0)]
    ),
    "rows": np.indices((2, 10, 6))[1] % 4 == 0,
    "mostly empty": with_pixels((12, 6, 6), (7, 2, slice(1, 4))),
    "random": RNG.random((3, 15, 17)) < 0.2,
}
VALUES = {
    "random": lambda m: RNG.normal(size=m.shape) + m,
    "constant": lambda m: np.full(m.shape, 0.37),
    "two values": lambda m: (RNG.random(m.shape) < 0.3).astype(float),
    "many ties": lambda m: np.round(RNG.normal(size=m.shape) + m, 0),
    "perfect": lambda m: m.astype(float),
    "opposite": lambda m: 1.0 - m,
    "zeros of both signs": lambda m: np.where(RNG.random(m.shape) < 0.5, -0.0, 0.0) + (RNG.random(m.shape) < 0.1),
    "huge and tiny": lambda m: (RNG.normal(size=m.shape) + m) * 10.0 ** RNG.integers(-30, 30, m.shape),
    "subnormal": lambda m: (RNG.integers(0, 5, m.shape) + m) * 5e-324,
    "next to each other": lambda m: np.nextafter(1.0, 2 * (RNG.random(m.shape) < 0.5)) * np.ones(m.shape),
    "one free pixel on top": lambda m: np.where(np.cumsum(~m.ravel()).reshape(m.shape) == 1, 9.0, RNG.random(m.shape)),
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("masks", MASKS)
def test_pixel_metrics_have_two_witnesses(masks, values):
    truth = MASKS[masks]
    maps = VALUES[values](truth)
    found = pixel_metrics(maps, truth)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth.ravel(), maps.ravel()), abs=1e-9)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(truth.ravel(), maps.ravel()), abs=1e-9)
    for limit in (0.05, 0.3):
        assert found[f"aupro_{limit}"] == pytest.approx(second_aupro(maps, truth, limit), abs=1e-9)
    assert aupro(maps, truth, 1.0) == pytest.approx(second_aupro(maps, truth, 1.0), abs=1e-9)


@pytest.mark.parametrize("truth", [blank(2, 5, 4), ~blank(2, 5, 4)])
def test_without_defect_or_without_free_pixels_there_is_no_value(truth):
    found = pixel_metrics(RNG.random(truth.shape), truth)
    assert set(found.values()) == {None}


@pytest.mark.parametrize("count", [1, 3])
def test_maps_of_a_real_size(count):
    """256 x 256, blurred defects of several sizes, values as float32."""
    truth = ndimage.binary_dilation(RNG.random((count, 256, 256)) < 2e-4, np.ones((1, 9, 7)))
    maps = (ndimage.gaussian_filter(truth.astype(float), (0, 6, 6)) + 0.2 * RNG.random(truth.shape)).astype(np.float32)
    found = pixel_metrics(maps, truth)
    exact = maps.astype(np.float64)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth.ravel(), exact.ravel()), abs=1e-9)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(truth.ravel(), exact.ravel()), abs=1e-9)
    for limit in (0.05, 0.3):
        assert found[f"aupro_{limit}"] == pytest.approx(second_aupro(exact, truth, limit), abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_maps_have_the_value_of_the_second_aupro(data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(2, 7), st.integers(2, 7)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    truth = rng.random(shape) < data.draw(st.sampled_from([0.05, 0.3, 0.8]))
    if truth.all() or not truth.any():
        return
    maps = np.round(rng.normal(size=shape), data.draw(st.integers(0, 3)))
    for limit in (0.05, 0.3, 0.77, 1.0):
        assert aupro(maps, truth, limit) == pytest.approx(second_aupro(maps, truth, limit), abs=1e-9)


# --- torchmetrics


def ranks(values):
    """The order of the values as numbers in [0, 1], ties kept; torchmetrics squashes anything else by a sigmoid."""
    _, index = np.unique(values, return_inverse=True)
    return torch.from_numpy(index.reshape(values.shape) / max(1, index.max()))


def torch_witness(values, labels):
    classification = pytest.importorskip("torchmetrics.functional.classification")
    scores, truth = ranks(np.asarray(values)).flatten(), torch.from_numpy(np.asarray(labels)).flatten().long()
    auroc = classification.binary_auroc(scores, truth, thresholds=None)
    ap = classification.binary_average_precision(scores, truth, thresholds=None)
    return float(auroc), float(ap)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("masks", MASKS)
def test_torchmetrics_agrees(masks, values):
    """To 2e-6: it sums shares in float32, which resolves 6e-8 of 1, over a few hundred thresholds."""
    truth = MASKS[masks]
    maps = VALUES[values](truth)
    found = pixel_metrics(maps, truth)
    auroc, ap = torch_witness(maps, truth)
    assert found["pixel_auroc"] == pytest.approx(auroc, abs=2e-6)
    assert found["pixel_ap"] == pytest.approx(ap, abs=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_image_metrics_have_two_witnesses(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(rng.integers(3, 60)) < rng.uniform(0.1, 0.9)
    labels[:2] = False, True
    scores = rng.normal(size=len(labels)) + labels
    scores = np.round(scores, 1) if seed % 2 else scores
    found = image_metrics(scores, labels)
    assert found["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert found["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    auroc, ap = torch_witness(scores, labels)
    assert found["image_auroc"] == pytest.approx(auroc, abs=1e-6) and found["image_ap"] == pytest.approx(ap, abs=1e-6)
