"""association_claim.py: groups are the right patches, effects those of a count over all pairs."""

import numpy as np
import pytest

from advit.association_claim import HeadScores, claim_rows, head_effects, head_scores, measures
from advit.cache import ImageCache
from advit.config import with_options
from advit.data import open_category
from advit.explain import association_view, reach
from advit.networks import build_network
from advit.presets import PRESETS

TINY = with_options(
    PRESETS["quick"],
    dict(image_size=32, patch=8, dim=24, depth=2, heads=3, mlp_dim=32, bottleneck=16, decoder_width=16, components=2,
         target_dim=6, density_hidden=8, precision="float32", evaluation_size=64),
)  # fmt: skip


def heads() -> HeadScores:
    rng = np.random.default_rng(0)
    share = np.zeros((3, 4, 4))
    share[0, 1, 1], share[1, 0, 2], share[2, 3, 3] = 0.9, 0.3, 0.6
    share[2, 3, 2] = 0.1
    ad = rng.normal(size=(3, 2, 3, 4, 4))
    ad[:, 1, 2] -= 5 * (share > 0)  # the claim holds in layer 1, head 2
    ad[:, 0, 1] += 5 * (share > 0)  # and its opposite in layer 0, head 1
    return HeadScores(ad, rng.uniform(size=ad.shape), share, np.ones(3, bool))


def pairs(low: np.ndarray, high: np.ndarray) -> float:
    return float(np.mean([a < b for a in low for b in high]))


def test_effects_are_counts_over_all_pairs():
    found, h = head_effects(heads()), heads()
    assert found.shape == (2, 3)
    assert found[1, 2] == 1.0 and found[0, 1] == 0.0
    values = h.discrepancy[:, 0, 2]
    defect = np.array([values[0, 1, 1], values[1, 0, 2], values[2, 3, 3]])
    normal = values[h.share == 0]
    assert len(normal) == 3 * 16 - 4
    assert found[0, 2] == pytest.approx(pairs(defect, normal))


def test_averages_over_layers_and_heads():
    h = heads()
    defect, normal = h.groups("reach")
    assert defect[1] == pytest.approx([h.reach[1, :, :, 0, 2].mean()])
    assert [len(g) for g in normal] == [15, 15, 14]
    assert h.groups("reach", head=1)[0][0] == pytest.approx([h.reach[0, :, 1, 1, 1].mean()])


def patches() -> dict[str, np.ndarray]:
    place = np.arange(16.0).reshape(4, 4) * 100
    share = np.zeros((4, 4, 4))
    share[2, 3, 3] = share[3, 2, 2] = 1
    ad = place + np.array([0.0, 2.0, 0, 0])[:, None, None] - 3 * share
    return {"discrepancy": ad, "defect_share": share, "is_anomalous": np.array([False, False, True, True])}


def test_the_place_is_removed():
    found = measures(patches(), heads())
    assert list(found) == ["AD", "AD, place removed", "reach"]  # these heads have seen no defect-free image
    defect, normal = found["AD"]
    assert defect[0].tolist() == [1497.0]
    defect, normal = found["AD, place removed"]
    assert [d.tolist() for d in defect] == [[-4.0], [-4.0]]
    assert np.unique(np.concatenate(normal)).tolist() == [-1.0]
    only_bad = {k: v[2:] for k, v in patches().items()}
    assert list(measures(only_bad, heads())) == ["AD", "reach"]


def test_the_place_is_removed_from_the_reach():
    h = heads()
    good = np.full((1, 2, 3, 4, 4), 0.25)
    both = HeadScores(np.concatenate([h.discrepancy, good]), np.concatenate([h.reach, good]),
                      np.concatenate([h.share, np.zeros((1, 4, 4))]), np.array([True, True, True, False]))  # fmt: skip
    found = measures(patches(), both)
    plain, placed = found["reach"], found["reach, place removed"]
    assert len(plain[0]) == len(placed[0]) == 3  # the defect-free image is in no group
    assert placed[0][0] == pytest.approx(plain[0][0] - 0.25) and placed[1][2] == pytest.approx(plain[1][2] - 0.25)


def test_rows_name_counts_means_and_verdict():
    table = claim_rows(measures(patches(), heads()), category="gear", seed=3)
    assert table["category"].tolist() == ["gear"] * 3
    row = table.iloc[1]
    assert (row["measure"], row["defect patches"], row["normal patches"]) == ("AD, place removed", 2, 30)
    assert (row["mean, defect"], row["mean, normal"]) == (-4.0, -1.0)
    assert row["P(defect < normal)"].startswith("1.000")
    empty = claim_rows({"AD": ([], [])}).iloc[0]
    assert empty["P(defect < normal)"] == "-" and np.isnan(empty["mean, defect"])
    assert empty["C1"] == "not tested on this data"


def test_every_image_with_a_mask_is_looked_at(tiny_mvtec):
    network, category = build_network(TINY, 0), open_category(tiny_mvtec, "part")
    cache = ImageCache(category.test, 32, mask_size=64)
    found = head_scores(network, category.test, cache)
    assert found.discrepancy.shape == found.reach.shape == (6, 2, 3, 4, 4)
    assert found.is_anomalous.tolist() == [s.is_anomalous for s in category.test]
    i = [k for k, s in enumerate(category.test) if s.is_anomalous][1]
    view = association_view(network, cache[i])
    assert found.discrepancy[i, 1, 2].ravel() == pytest.approx(view.discrepancy[1, 2])
    assert found.reach[i, 0, 1].ravel() == pytest.approx(reach(view.series, 4)[0, 1])
    mask = cache.mask(i).numpy()
    assert found.share[i, 1, 2] == pytest.approx(mask[16:32, 32:48].mean())
    good = [s for s in category.test if not s.is_anomalous]
    assert head_scores(network, good, ImageCache(good, 32, mask_size=64)) is None
