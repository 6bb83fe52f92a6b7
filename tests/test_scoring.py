"""scoring.py and networks.patch_scores: masks, fine grid, maps, image scores."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from advit.config import ADViTConfig, with_options
from advit.discrepancy import association_discrepancy
from advit.filters import feature_count
from advit.masks import scoring_masks
from advit.networks import SCORES, build_network, patch_scores
from advit.presets import PRESETS
from advit.scoring import image_scores, pixel_maps, score_batch, score_images, shift_offsets

SMALL = with_options(
    ADViTConfig(),
    dict(image_size=32, patch=8, dim=24, depth=2, heads=3, mlp_dim=32, bottleneck=16, components=3,
         density_context="others", density_target="pixels", target_dim=6, density_hidden=16, score_shifts=2),
)  # fmt: skip


FEATURES = feature_count(4)
FILTERS = dict(density_target="filters", target_cells=2, score_shifts=1, mask_blocks="1,2,all", mask_share=0.3)


def network(**options):
    net = build_network(with_options(SMALL, options), seed=1).eval()
    net.target.fit([torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))])
    return net


@pytest.mark.parametrize("shifts", [1, 2, 4])
def test_shifted_patch_centres_interleave_to_a_regular_grid(shifts):
    centres = sorted(8 * r + 4 + o for r in range(3) for o in shift_offsets(8, shifts))
    assert set(np.diff(centres)) == {8 // shifts}


def test_criterion_is_softmax_of_minus_discrepancy_times_error():
    scores = patch_scores(network(), torch.rand(2, 3, 32, 32))
    ad, error = scores["discrepancy"].double(), scores["reconstruction"].double()
    expected = torch.exp(-ad) / torch.exp(-ad).sum(dim=1, keepdim=True) * error
    assert torch.allclose(scores["association"].double(), expected, rtol=1e-4)


def test_reconstruction_error_of_a_patch_against_loops():
    net, images = network(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = patch_scores(net, images, wanted=("reconstruction",))["reconstruction"]
        made = net.reconstruct(net.encode(images)[0])
    expected = ((images - made) ** 2)[1, :, 8:16, 24:32].mean()
    assert found[1, 4 + 3].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("options", [{}, FILTERS])
def test_reconstruction_error_of_half_the_size_against_loops(options):
    net, images = network(**{**options, "reconstruction_scale": 2}), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = patch_scores(net, images, wanted=("reconstruction",))["reconstruction"]
        made = net.reconstruct(net.encode(images)[0]).tolist()
    assert found.shape == (2, 16)
    given = images.tolist()
    for patch in (0, 7, 14):
        row, column, squares = patch // 4, patch % 4, []
        for c in range(3):
            for y in range(4 * row, 4 * row + 4):
                for x in range(4 * column, 4 * column + 4):
                    mean = sum(given[1][c][2 * y + a][2 * x + b] for a in (0, 1) for b in (0, 1)) / 4
                    squares.append((mean - made[1][c][y][x]) ** 2)
        assert found[1, patch].item() == pytest.approx(sum(squares) / 48, rel=1e-5)


def test_the_density_of_a_patch_does_not_see_the_patch():
    net = network()
    images = torch.rand(1, 3, 32, 32)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 5] = True
    changed = images.clone()
    changed[..., 8:16, 8:16] = 0  # patch 5
    with torch.no_grad():
        before, after = (net.density(net.encode(x, mask)[0]).mean[0, 5] for x in (images, changed))
        other = net.density(net.encode(changed, mask)[0]).mean[0, 6]
        unmasked = net.density(net.encode(images)[0]).mean[0, 5], net.density(net.encode(changed)[0]).mean[0, 5]
    assert torch.equal(before, after)
    assert not torch.equal(*unmasked) and other.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(**FILTERS, reconstruction_scale=2),
        dict(**FILTERS, density_score="surprise"),
        dict(mask_blocks="1,3", mask_draws=2),
    ],
    ids=str,
)
def test_a_score_does_not_depend_on_its_batch(options):
    net = network(**options)
    images = (torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    cpu = torch.device("cpu")
    together = score_images(net, lambda i: images[i], 5, device=cpu, batch=5)
    apart = score_images(net, lambda i: images[i], 5, device=cpu, batch=2)
    assert set(together) == set(SCORES)
    for name in together:
        assert together[name].shape == (5, 8, 8)
        assert np.allclose(together[name], apart[name], rtol=1e-4, atol=1e-6)


def test_a_defect_raises_the_density_score_where_it_is():
    """Untrained weights, but a whitened target: a patch far from the training patches has a low density."""
    net = network()
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    images[..., 18:22, 10:14] = 3.0
    found = score_batch(net, images, wanted=("density",))["density"][0]
    row, column = divmod(int(found.argmax()), 8)
    assert (row, column) in {(r, c) for r in (4, 5) for c in (2, 3)}


def log_gaussian(z, mean, log_variance):
    return sum(
        -0.5 * ((a - m) ** 2 * math.exp(-v) + v + math.log(2 * math.pi))
        for a, m, v in zip(z, mean, log_variance, strict=True)
    )


def density_by_loops(net, image):
    """NLL and expected NLL per dimension of one image on the grid of places, the mean over the sets of masks."""
    c = net.config
    nll, expected = np.zeros((2, 8, 8))
    sets = scoring_masks(c, torch.Generator().manual_seed(0))
    with torch.no_grad():
        target = net.target(image)[0].tolist()
        for masks in sets:
            for mask in masks:
                mixture = net.density(net.encode(image, mask[None])[0])
                weight, mean, spread = (v[0].tolist() for v in (mixture.log_weight, mixture.mean, mixture.log_variance))
                for patch, (y, x) in [(i, divmod(i, 4)) for i in range(16) if mask[i]]:
                    for place, (cy, cx) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
                        u, at, likelihood, entropy = 4 * patch + place, (2 * y + cy, 2 * x + cx), 0.0, 0.0
                        for k in range(3):
                            log = weight[u][k] + log_gaussian(target[u], mean[u][k], spread[u][k])
                            likelihood += math.exp(log + 50)
                            own = 0.5 * sum(1 + math.log(2 * math.pi) + v for v in spread[u][k])
                            entropy += math.exp(weight[u][k]) * (own - weight[u][k])
                        nll[at] += (50 - math.log(likelihood)) / (3 * FEATURES) / len(sets)
                        expected[at] += entropy / (3 * FEATURES) / len(sets)
    return nll, expected


def test_density_of_filters_with_squares_of_three_sides_against_loops():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    net, surprised = network(**FILTERS), network(**FILTERS, density_score="surprise")
    nll, expected = density_by_loops(net, images[1:])
    found = score_batch(net, images)
    assert list(found) == list(SCORES) and all(v.shape == (2, 8, 8) for v in found.values())
    assert np.allclose(found["density"][1].numpy(), nll, rtol=1e-4, atol=1e-4)
    surprise = score_batch(surprised, images)
    assert np.allclose(surprise["density"][1].numpy(), nll - expected, rtol=1e-4, atol=1e-4)
    for name in SCORES[1:]:  # the other scores know nothing of it, and have one value per patch
        assert torch.equal(found[name], surprise[name])
        assert torch.equal(found[name][:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2), found[name])


def test_discrepancy_is_the_mean_over_the_passes_that_show_the_patch_and_the_error_over_all():
    net = network(**FILTERS)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    masks = torch.cat(scoring_masks(net.config, torch.Generator().manual_seed(0)))
    with torch.no_grad():
        passes = [net.encode(image, m[None]) for m in masks]
        discrepancy = torch.stack([association_discrepancy(a, net.config.smoothing_eps)[0] for _, a in passes])
        made = torch.cat([net.reconstruct(encoded) for encoded, _ in passes])
    found = score_batch(net, image, wanted=("reconstruction", "discrepancy"))
    for patch in range(16):
        row, column = divmod(patch, 4)
        shown = [float(d[patch]) for d, m in zip(discrepancy, masks, strict=True) if not m[patch]]
        assert found["discrepancy"][0, 2 * row, 2 * column].item() == pytest.approx(np.mean(shown), rel=1e-5)
        area = (slice(None), slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        error = ((image - made)[area] ** 2).mean().item()
        assert found["reconstruction"][0, 2 * row, 2 * column].item() == pytest.approx(error, rel=1e-5)


def test_the_public_network_has_no_masks_whatever_the_context():
    sizes = dict(image_size=32, patch=8, dim=16, depth=1, heads=2, mlp_dim=16, components=2)
    images = torch.rand(2, 3, 32, 32)
    found = [
        score_batch(build_network(with_options(PRESETS["vt_adl"], {**sizes, "density_context": c}), 0).eval(), images)
        for c in ("self", "others")
    ]
    assert list(found[0]) == list(found[1]) == ["density", "reconstruction"]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_known_target_changes_nothing():
    net, images = network(**FILTERS), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        target = net.target(images)
        known, found = (patch_scores(net, images, wanted=("density",), target=t)["density"] for t in (target, None))
        other = patch_scores(net, images, wanted=("density",), target=target.flip(0))["density"]
        mask = scoring_masks(net.config, torch.Generator().manual_seed(0))[0][:1].expand(2, -1)
        masked = [patch_scores(net, images, mask, target=t) for t in (target, None)]
    assert torch.equal(known, found) and not torch.equal(other, found)
    assert list(masked[0]) == list(SCORES) and all(torch.equal(masked[0][k], masked[1][k]) for k in SCORES)


def test_a_map_fades_by_its_mean_around_each_pixel():
    """m / (1 + s / 6), s the Gaussian mean of max(m, 0), sd 64 px at 512: 8 px at 64."""
    maps = np.random.default_rng(0).normal(size=(3, 16, 16)).astype(np.float32)
    maps[1] = 4.0
    maps[2] = -4.0
    smooth, faded = (pixel_maps(maps, 64, 8.0, fade) for fade in (0.0, 6.0))
    around = np.stack([gaussian_filter(np.maximum(m, 0), 8.0, mode="nearest") for m in smooth])
    assert np.allclose(faded, smooth / (1 + around / 6), atol=1e-5)
    assert faded[1] == pytest.approx(np.full((64, 64), 4 / (1 + 4 / 6)), rel=1e-4)
    assert np.array_equal(faded[2], smooth[2])  # nothing stands out there
    assert faded.dtype == smooth.dtype == np.float32


@pytest.mark.parametrize("size", [100, 256, 512])
def test_the_mean_that_fades_a_map_may_be_taken_of_coarse_pixels(size):
    """Within a hundredth of the mean of every pixel, and of the map."""
    maps = 3 + 2 * np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    smooth, faded = (pixel_maps(maps, size, 8.0, fade) for fade in (0.0, 6.0))
    sigma = 64 * size / 512
    around = gaussian_filter(np.maximum(smooth, 0), sigma=(0, sigma, sigma), mode="nearest")
    assert np.abs(faded - smooth / (1 + around / 6)).max() < 0.01 * np.abs(faded).max()


def test_the_halo_of_a_strong_defect_fades_below_a_faint_one_that_is_alone():
    """Both of 32 x 32 places; where the halo is as high as the faint defect, it ends up near half of it."""
    strong, faint = np.zeros((2, 1, 32, 32), np.float32)
    strong[0, 14:18, 14:18], faint[0, 10:12, 10:12] = 400, 8
    strong = gaussian_filter(strong, (0, 2.5, 2.5))
    column = int(np.argmax(strong[0, 16] > 8))  # of the halo, 8 pixels a place
    s, f = pixel_maps(strong, 256, 0.0, 6.0), pixel_maps(faint, 256, 0.0, 6.0)
    assert 3 < 16 - column < 10 and s[0, 132, 8 * column + 4] < 0.6 * f.max() and s.max() > 2 * f.max()


def test_pixel_maps_are_bilinear_then_gaussian_scaled_with_size():
    maps = np.random.default_rng(0).normal(size=(2, 4, 4)).astype(np.float32)
    plain = pixel_maps(maps, 64, 0.0)
    assert plain.shape == (2, 64, 64)
    assert np.allclose(pixel_maps(maps, 64, 16.0)[1], gaussian_filter(plain[1], 2.0, mode="nearest"), atol=1e-5)


def test_image_score_is_the_maximum_or_the_mean_of_the_top_share():
    maps = np.arange(20, dtype=np.float32).reshape(1, 4, 5)
    assert image_scores(maps, 0.0).tolist() == [19]
    assert image_scores(maps, 0.1).tolist() == [18.5]
    assert image_scores(maps, 1.0).tolist() == [pytest.approx(9.5)]
