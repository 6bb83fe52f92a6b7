"""scoring.py and networks.patch_scores: masks, fine grid, maps, image scores."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from advit.config import ADViTConfig, with_options
from advit.networks import build_network, patch_scores
from advit.scoring import complementary_masks, image_scores, pixel_maps, score_batch, score_images, shift_offsets

SMALL = with_options(
    ADViTConfig(),
    dict(image_size=32, patch=8, dim=24, depth=2, heads=3, mlp_dim=32, bottleneck=16, components=3,
         density_context="others", density_target="pixels", target_dim=6, density_hidden=16, score_shifts=2),
)  # fmt: skip


def network(**options):
    net = build_network(with_options(SMALL, options), seed=1).eval()
    net.target.fit([torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))])
    return net


@pytest.mark.parametrize("share, groups", [(0.5, 2), (0.25, 4), (0.3, 3)])
def test_masks_hide_every_patch_exactly_once(share, groups):
    masks = complementary_masks(50, share, torch.Generator().manual_seed(0))
    assert masks.shape == (groups, 50)
    assert (masks.sum(dim=0) == 1).all()
    assert masks.sum(dim=1).max() - masks.sum(dim=1).min() <= 1


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


def test_a_score_does_not_depend_on_its_batch():
    net = network()
    images = (torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    cpu = torch.device("cpu")
    together = score_images(net, lambda i: images[i], 5, device=cpu, batch=5)
    apart = score_images(net, lambda i: images[i], 5, device=cpu, batch=2)
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
