"""analysis.py: which patches hold defects, how patches are grouped, and a probe that changes nothing."""

import numpy as np
import pytest
import torch

from advit.analysis import analyse, defect_share, discrepancy_probe, patch_groups
from advit.cache import ImageCache
from advit.data import open_category
from advit.detector import calibrate
from advit.evaluation import evaluate
from advit.networks import SCORES, build_network, fit_target
from advit.profiles import PROFILES
from advit.samples import Sample

CPU = torch.device("cpu")
CONFIG = PROFILES["smoke"].base


@pytest.fixture
def part(tiny_mvtec):
    category = open_category(tiny_mvtec, "part")
    train = ImageCache(category.train, CONFIG.image_size)
    test = ImageCache(category.test, CONFIG.image_size, mask_size=CONFIG.evaluation_size)
    network = build_network(CONFIG, 0)
    fit_target(network, train.batch, len(train))
    return category, train, test, network


def test_the_share_of_a_patch_is_counted_pixel_by_pixel(part):
    category, _, cache, _ = part
    shares = defect_share(category.test, cache, 8)
    for i, sample in enumerate(category.test):
        mask = cache.mask(i).numpy()
        expected = [[mask[8 * r : 8 * r + 8, 8 * c : 8 * c + 8].mean() for c in range(8)] for r in range(8)]
        assert np.allclose(shares[i], expected) and (shares[i].max() > 0) == sample.is_anomalous


def test_an_anomalous_image_without_mask_has_no_share():
    sample = Sample(__file__, "dent")
    assert np.isnan(defect_share((sample,), None, 4)).all()


def test_groups_are_defect_and_clean_patches_of_the_same_images():
    share = np.zeros((4, 2, 2))
    share[1] = [[0.9, 0.5], [0.2, 0]]
    share[2] = [[0.3, 0.1], [0, 0]]  # no patch reaches one half: the most covered
    share[3] = np.nan
    score = np.arange(16.0).reshape(4, 2, 2)
    defect, normal = patch_groups({"x": score, "defect_share": share}, "x")
    assert [d.tolist() for d in defect] == [[4, 5], [8]] and [n.tolist() for n in normal] == [[7], [10, 11]]


def test_every_kind_of_map_is_judged_from_one_scoring(part):
    category, train, cache, network = part
    detector = calibrate(network, train.batch, len(train), [], CPU, wanted=SCORES)
    result, by_kind, patches = analyse(detector, category.test, cache, CPU, progress=False)
    plain = evaluate(detector, category.test, cache, CPU, progress=False)
    assert np.array_equal(result.maps, plain.maps) and result.metrics == plain.metrics
    assert set(by_kind) == set(SCORES) and by_kind["density"]["pixel_auroc"] == result.metrics["pixel_auroc"]
    assert by_kind["reconstruction"] != by_kind["density"] and "per_defect" not in by_kind["density"]
    assert patches["discrepancy"].shape == patches["defect_share"].shape == (6, 8, 8)
    assert patches["names"].tolist() == [f"{s.defect}/{s.path.stem}" for s in category.test]


def test_the_probe_measures_and_changes_nothing(part):
    category, _, cache, network = part
    before = {k: v.clone() for k, v in network.state_dict().items()}
    found = discrepancy_probe(category.test, cache, CPU)(network)
    assert set(found) == {"ad_defect", "ad_normal"} and all(v > 0 for v in found.values())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert discrepancy_probe(category.test[3:], cache, CPU) is None
