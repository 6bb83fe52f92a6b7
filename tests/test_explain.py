"""explain.py: the view is what the network computed, and patches are picked by the written rule."""

import math

import numpy as np
import pytest
import torch

from advit.config import ADViTConfig, with_options
from advit.discrepancy import association_discrepancy
from advit.explain import (
    association_view,
    busiest_share,
    farthest_normal_patch,
    layer_table,
    median_defect,
    most_covered_patch,
    patch_shares,
    reach,
)
from advit.networks import build_network
from advit.presets import PRESETS

SMALL = with_options(
    ADViTConfig(),
    dict(image_size=40, patch=8, dim=24, depth=2, heads=3, mlp_dim=32, bottleneck=16, components=2, sigma_max=4.0),
)  # fmt: skip
IMAGE = torch.randint(0, 256, (3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def network():
    return build_network(SMALL, seed=3)


def test_shapes_and_rows(network):
    view = association_view(network, IMAGE)
    assert view.image.shape == (40, 40, 3) and view.image[7, 9].tolist() == IMAGE[:, 7, 9].tolist()
    assert view.series.shape == view.prior.shape == (2, 3, 25, 25)
    assert view.sigma.shape == view.discrepancy.shape == (2, 3, 25)
    assert {a.dtype for a in (view.series, view.prior, view.sigma, view.discrepancy)} == {np.dtype(np.float32)}
    assert view.series.sum(axis=-1) == pytest.approx(np.ones((2, 3, 25)), abs=1e-5)
    assert view.prior.sum(axis=-1) == pytest.approx(np.ones((2, 3, 25)), abs=1e-5)
    assert not view.mask.any() and view.grid == 5


def test_discrepancy_of_one_patch_against_loops(network):
    view = association_view(network, IMAGE)
    layer, head, i, n, eps = 1, 2, 7, 25, SMALL.smoothing_eps
    total = 0.0
    for j in range(n):
        p = (1 - eps) * float(view.prior[layer, head, i, j]) + eps / n
        s = (1 - eps) * float(view.series[layer, head, i, j]) + eps / n
        total += p * math.log(p / s) + s * math.log(s / p)
    assert view.discrepancy[layer, head, i] == pytest.approx(total, rel=1e-4)


def test_prior_is_the_gaussian_of_the_view_s_own_sigma(network):
    view = association_view(network, IMAGE)
    sigma, i = float(view.sigma[0, 1, 13]), 13
    weight = [math.exp(-((i // 5 - j // 5) ** 2 + (i % 5 - j % 5) ** 2) / (2 * sigma**2)) for j in range(25)]
    assert view.prior[0, 1, i] == pytest.approx(np.array(weight) / sum(weight), abs=1e-5)


def test_the_average_over_layers_and_heads_is_the_discrepancy_of_the_scores(network):
    view = association_view(network, IMAGE)
    with torch.no_grad():
        _, layers = network.encode(IMAGE[None].float() / 255)
        expected = association_discrepancy(layers, SMALL.smoothing_eps)[0].numpy()
    assert view.pick("discrepancy") == pytest.approx(expected, rel=1e-4)
    assert view.pick("sigma", layer=1) == pytest.approx(view.sigma[1].mean(axis=0))
    assert view.pick("series", head=2) == pytest.approx(view.series[:, 2].mean(axis=0))
    assert np.array_equal(view.pick("series", 0, 2), view.series[0, 2])


def test_the_network_keeps_its_mode(network):
    for training in (True, False):
        association_view(network.train(training), IMAGE)
        assert network.training is training


def test_the_public_network_has_no_prior():
    public = build_network(with_options(PRESETS["vt_adl"], dict(image_size=32, patch=8, dim=16, depth=1, heads=2)), 0)
    with pytest.raises(ValueError, match="model=vt_adl has no prior-association to look at"):
        association_view(public, IMAGE)


def test_shares_count_pixels():
    mask = np.zeros((8, 8), bool)
    mask[2:5, 4:8] = True
    assert patch_shares(mask, 2).tolist() == [[0, 8 / 16], [0, 4 / 16]]
    uneven = np.zeros((10, 10), bool)
    uneven[:4] = True
    assert patch_shares(uneven, 4)[:, 0] == pytest.approx([1, 2 / 3, 0, 0])


def test_most_covered_patch():
    share = np.zeros(16)
    share[[1, 6, 9]] = [0.5, 1.0, 0.25]
    assert most_covered_patch(share) == 6
    share[[5, 6, 7]] = 1.0  # the middle one is nearest the centre
    assert most_covered_patch(share) == 6
    with pytest.raises(ValueError, match="no patch is covered by a defect"):
        most_covered_patch(np.zeros(16))


def test_farthest_normal_patch():
    share = np.zeros(16)
    share[[0, 1]] = [1.0, 0.01]  # (3, 3) is sqrt(13) from (0, 1) and (3, 0) only 3 from (0, 0)
    assert farthest_normal_patch(share) == 15
    middle = np.zeros(9)
    middle[4] = 1
    assert farthest_normal_patch(middle) == 0  # four corners are equally far: the first
    everywhere = np.linspace(0.2, 1, 9)[::-1].copy()
    assert farthest_normal_patch(everywhere) == 8
    assert farthest_normal_patch(np.zeros(9)) == 0


def test_median_defect():
    share = np.zeros((5, 2, 2))
    share[0, 0, 0], share[2, 1, 1], share[4] = 0.7, 0.2, 1.0
    share[1] = np.nan
    assert median_defect(share) == 0
    assert median_defect(np.zeros((3, 2, 2))) is None


def test_reach_of_known_associations():
    own, uniform = np.eye(9), np.full((9, 9), 1 / 9)
    assert reach(own, 3).tolist() == [0] * 9
    assert reach(np.stack([own, uniform]), 3)[1] == pytest.approx([1] * 9)
    corner = np.zeros((9, 9))
    corner[:, 8] = 1
    from_first = [0, 1, 2, 1, math.sqrt(2), math.sqrt(5), 2, math.sqrt(5), math.sqrt(8)]
    assert reach(corner, 3)[0] == pytest.approx(math.sqrt(8) / (sum(from_first) / 9), rel=1e-6)


def test_busiest_share():
    one = np.zeros((2, 4, 4))
    one[0, :, 2] = 1
    one[1] = 0.25
    assert busiest_share(one).tolist() == [1, 0.25]


def test_layer_table(network):
    view = association_view(network, IMAGE)
    table = layer_table({"gear": view})
    assert list(table)[:3] == ["category", "layer", "sigma"] and list(layer_table({})) == list(table)
    assert table["layer"].tolist() == [0, 1]
    assert table["sigma"][1] == pytest.approx(view.sigma[1].mean(), rel=1e-6)
    expected = np.mean([max(view.series[0, m, :, j].mean() for j in range(25)) for m in range(3)])
    assert table["busiest_share"][0] == pytest.approx(expected, rel=1e-5)
