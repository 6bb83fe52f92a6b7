"""explain_localization.py: the steps end in the detector's own map, and a threshold's point is a direct count."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from advit.calibration import fit_standardiser
from advit.config import ADViTConfig, with_options
from advit.detector import Detector
from advit.explain_localization import density_steps, pro_points
from advit.filters import feature_count
from advit.masks import scoring_masks
from advit.metrics import aupro, pro_curve
from advit.networks import build_network
from advit.presets import PRESETS
from advit.scoring import score_images

SMALL = with_options(
    ADViTConfig(),
    dict(image_size=32, patch=8, dim=24, depth=2, heads=3, mlp_dim=32, bottleneck=16, components=3, target_dim=6,
         density_hidden=16, evaluation_size=64),
)  # fmt: skip
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
FEATURES = feature_count(4)
MASK = np.zeros((64, 64), bool)
OTHERS = dict(density_context="others", density_target="pixels")
FILTERS = dict(density_context="others", density_target="filters", target_cells=2, mask_blocks="1,2,all")


def detector_of(**options) -> Detector:
    network = build_network(with_options(SMALL, options), seed=1).eval()
    if network.target is not None:
        network.target.fit([IMAGES.float() / 255])
    scores = score_images(network, lambda i: IMAGES[i], 4, device=torch.device("cpu"))
    return Detector(network, *[{k: fit_standardiser(v, "image") for k, v in scores.items()}] * 2, 0.0, 0.0)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(density_target="pixels", score_shifts=2),
        dict(**OTHERS, score_shifts=2),
        dict(**OTHERS, mask_draws=2),
        dict(**OTHERS, precision="float64"),
        dict(**OTHERS, score_shifts=2, mask_draws=2, mask_blocks="1,3", density_score="surprise"),
        dict(density_target="filters", target_cells=2),
        dict(**FILTERS, density_score="surprise"),
    ],
    ids=str,
)
def test_the_last_step_is_the_detector_s_map(options):
    detector = detector_of(**options)
    steps = density_steps(detector, IMAGES[2], MASK)
    map_of_all = detector.judge(lambda i: IMAGES[[2]], 1, torch.device("cpu")).maps
    assert steps.smoothed == pytest.approx(map_of_all[0], abs=1e-4)
    raw = score_images(detector.network, lambda i: IMAGES[[2]], 1, device=torch.device("cpu"), wanted=("density",))
    assert steps.nll == pytest.approx(raw["density"][0], abs=1e-5)


def test_nll_of_one_patch_follows_from_its_mixture_by_loops():
    detector = detector_of(**OTHERS)
    steps = density_steps(detector, IMAGES[1], MASK)
    row, column, likelihood = 2, 1, 0.0
    target = detector.network.target(IMAGES[1:2].float() / 255)[0, row * 4 + column].double().numpy()
    for k in range(3):
        log = math.log(steps.weight[row, column, k])
        for d in range(6):
            log_variance = float(steps.log_variance[row, column, k, d])
            squared = (target[d] - float(steps.mean[row, column, k, d])) ** 2
            log -= 0.5 * (squared * math.exp(-log_variance) + log_variance + math.log(2 * math.pi))
        likelihood += math.exp(log)
    assert steps.nll[row, column] == pytest.approx(-math.log(likelihood) / 6, rel=1e-4)
    centre = sum(float(steps.weight[row, column, k]) * steps.mean[row, column, k] for k in range(3))
    assert steps.miss[row, column] == pytest.approx(np.mean((target - centre) ** 2), rel=1e-4)


def test_shapes_and_effective_components():
    steps = density_steps(detector_of(**OTHERS, score_shifts=2), IMAGES[0], MASK)
    assert steps.weight.shape == (8, 8, 3) and steps.mean.shape == steps.log_variance.shape == (8, 8, 3, 6)
    assert steps.weight.sum(axis=-1) == pytest.approx(np.ones((8, 8)), abs=1e-5)
    assert steps.expected.shape == (32, 32, 3) and steps.standardised.shape == (8, 8)
    assert (steps.effective_components >= 1).all() and (steps.effective_components <= 3 + 1e-5).all()
    w = steps.weight[5, 3].astype(float)
    assert steps.effective_components[5, 3] == pytest.approx(math.exp(-sum(w * np.log(w))), rel=1e-5)


def test_filters_have_places_in_every_patch_and_the_mixture_of_the_first_set():
    detector = detector_of(**FILTERS)
    steps = density_steps(detector, IMAGES[0], MASK)
    assert steps.weight.shape == (8, 8, 3) and steps.mean.shape == steps.log_variance.shape == (8, 8, 3, 3 * FEATURES)
    assert steps.nll.shape == steps.miss.shape == steps.standardised.shape == (8, 8) and steps.expected is None
    network, x = detector.network, IMAGES[:1].float() / 255
    first = scoring_masks(network.config, torch.Generator().manual_seed(0))[0]
    with torch.no_grad():
        found = [network.density(network.encode(x, m[None])[0]) for m in first]
        target = network.target(x)[0]
    for row, column in ((0, 0), (3, 6), (7, 2)):
        patch, place = 4 * (row // 2) + column // 2, 2 * (row % 2) + column % 2
        mixture = next(f for f, m in zip(found, first, strict=True) if m[patch])
        weight, mean = mixture.log_weight[0, 4 * patch + place].exp(), mixture.mean[0, 4 * patch + place]
        assert steps.weight[row, column] == pytest.approx(weight.numpy(), rel=1e-4)
        assert steps.mean[row, column] == pytest.approx(mean.numpy(), abs=1e-5)
        miss = (target[4 * patch + place] - weight @ mean).square().mean().item()
        assert steps.miss[row, column] == pytest.approx(miss, rel=1e-4)


def test_expected_pixels_lie_where_they_belong():
    """With zero means, every expected patch is the mean training patch."""
    detector = detector_of(**OTHERS)
    torch.nn.init.zeros_(detector.network.density.to_mean.weight)
    torch.nn.init.zeros_(detector.network.density.to_mean.bias)
    steps = density_steps(detector, IMAGES[0], MASK)
    mean_patch = IMAGES.double().reshape(4, 3, 4, 8, 4, 8).mean(dim=(0, 2, 4)).permute(1, 2, 0).numpy() / 255
    assert steps.expected[8:16, 24:32] == pytest.approx(mean_patch, abs=1e-5)


def test_features_as_target_have_no_pixels():
    steps = density_steps(detector_of(), IMAGES[0], MASK)
    assert steps.expected is None and steps.mean.shape == (4, 4, 3, 24)


def random_maps():
    rng = np.random.default_rng(3)
    masks = np.zeros((3, 20, 20), bool)
    masks[0, 2:6, 2:5] = masks[0, 12:13, 9:18] = masks[1, 5:9, 5:9] = True
    maps = (np.round(rng.normal(size=masks.shape), 1) + masks).astype(np.float32)  # with ties
    return maps, masks


def test_the_point_of_a_threshold_is_a_direct_count():
    maps, masks = random_maps()
    curve = pro_points(maps.copy(), masks)
    for t in (-1.0, 0.3, 0.95, 1.5, 99.0):
        overlaps = []
        for m, mask in zip(maps, masks, strict=True):
            regions, n = label(mask, np.ones((3, 3)))
            overlaps += [np.mean(m[regions == k] >= np.float32(t)) for k in range(1, n + 1)]
        fpr, pro = curve.at(t)
        assert fpr == pytest.approx(np.mean(maps[~masks] >= np.float32(t)), abs=1e-12)
        assert pro == pytest.approx(np.mean(overlaps), abs=1e-12)


def test_the_curve_is_the_one_under_aupro():
    maps, masks = random_maps()
    curve = pro_points(maps, masks)
    assert np.trapezoid(curve.pro, curve.fpr) == pytest.approx(aupro(maps, masks, limit=1.0), abs=1e-12)
    assert set(zip(*pro_curve(maps, masks)[:2], strict=True)) <= set(zip(curve.fpr, curve.pro, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.3])
def test_threshold_of_a_false_positive_rate(rate):
    maps, masks = random_maps()
    good = np.unique(maps[~masks])
    threshold = pro_points(maps, masks).threshold(rate)
    assert np.mean(maps[~masks] >= threshold) <= rate
    assert np.mean(maps[~masks] >= good[good < threshold].max()) > rate


def test_no_curve_without_a_defect():
    maps, masks = random_maps()
    assert pro_points(maps, np.zeros_like(masks)) is None
    assert pro_points(maps, np.ones_like(masks)) is None


def test_the_public_network_is_refused():
    public = build_network(with_options(PRESETS["vt_adl"], dict(image_size=32, patch=8, dim=16, depth=1, heads=2)), 0)
    with pytest.raises(ValueError, match="model=vt_adl"):
        density_steps(Detector(public, {}, {}, 0.0, 0.0), IMAGES[0], MASK)
