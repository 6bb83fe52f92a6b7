"""The public code's mathematics: the values that were found, each from its smallest setting."""

import math

import numpy as np
import pytest
import torch

from advit.decoder import ReconstructionVector
from advit.mdn import Mixture, mixture_nll
from advit.public_training import (
    attention_entropy,
    density_training,
    discrepancy_on_a_line,
    encoder_gradients,
    fit_two_clusters,
    route,
)  # fmt: skip
from advit.vt_adl import VTADL, PublicBlock, PublicDensity, public_patch_nll


def network() -> VTADL:
    torch.manual_seed(0)
    return VTADL(image_size=64, patch=8, dim=64, depth=2, heads=8, mlp_dim=128, components=10)


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_routing_to_one_capsule_is_a_linear_map_and_to_two_is_not():
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(3, 4, 16, generator=generator, dtype=torch.float64)  # batch, N, d
    weight = torch.randn(2, 8, 5, 8, generator=generator, dtype=torch.float64)
    capsules = tokens.reshape(3, 8, 8)
    output, coefficients = route(capsules, weight[:1])
    assert (coefficients == 1).all()
    linear = ReconstructionVector(tokens=4, dim=16, out_dim=5).double()
    linear.linear.weight.data = weight[0].permute(1, 0, 2).reshape(5, 64)
    torch.testing.assert_close(output[:, 0], linear(tokens))
    assert route(capsules, weight)[1].std() > 0.1


def test_the_public_density_has_one_component_for_two_clusters():
    public, likelihood = fit_two_clusters("public"), fit_two_clusters("likelihood")
    used = int(public["weight"].argmax())
    assert sorted(public["weight"].round(2)) == [0, 1]
    assert public["mean"][used] == pytest.approx(0, abs=0.02)
    assert public["sd"][used] == pytest.approx(math.sqrt(16.25), abs=0.02)  # of all data
    assert likelihood["weight"].round(2).tolist() == [0.5, 0.5]
    assert likelihood["mean"].round(1).tolist() == [-4, 4]
    assert likelihood["sd"] == pytest.approx(0.5, abs=0.01)


def test_the_public_variance_is_never_below_one():
    density = PublicDensity(dim=6, components=3)
    with torch.no_grad():
        density.log_variance.weight.fill_(-10)
        log_variance = density(torch.rand(2, 5, 6))[2]
    assert log_variance.min() >= 0 and log_variance.max() < 0.1


def test_log_two_pi_is_counted_once_in_512_dimensions():
    z = torch.randn(1, 3, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    zero = torch.zeros_like(z)
    one = torch.zeros(1, 3, 1, dtype=torch.float64)
    likelihood = mixture_nll(z, Mixture(one, zero[:, :, None], zero[:, :, None]))
    offset = likelihood - public_patch_nll(z, one, zero[..., None], zero[..., None])
    assert offset.numpy() == pytest.approx(470, abs=0.5)


def test_the_density_term_outweighs_the_reconstruction_in_the_encoder():
    norms = encoder_gradients(network(), images())
    assert round(math.log10(norms["density"] / norms["reconstruction"])) == 6


def test_gradients_that_are_not_zeroed_add_up():
    public = density_training(network().double(), images().double(), zero_density=False)
    zeroed = density_training(network().double(), images().double(), zero_density=True)
    assert public[0] == zeroed[0]
    assert all(np.diff([norm for _, norm in public]) > 0) and all(np.diff([loss for loss, _ in public]) < 0)
    assert public[-1][1] > 3 * public[0][1]
    assert zeroed[-1][1] < zeroed[0][1]


def test_the_sum_of_gradients_is_what_is_left_in_the_density_network():
    model, pictures, total = network().double(), images().double(), 0
    density_training(model, pictures, zero_density=False, steps=3, learning_rate=0.0)
    for p in model.density.parameters():
        total += float(p.grad.square().sum())
    once = density_training(network().double(), pictures, zero_density=True, steps=1)[0][1]
    assert math.sqrt(total) == pytest.approx(3 * once)  # nothing moved: three times the same gradient


def test_the_full_width_scale_flattens_attention():
    torch.manual_seed(0)
    block = PublicBlock(dim=512, heads=8, mlp_dim=8).double()
    torch.nn.init.kaiming_normal_(block.qkv.weight)
    tokens = torch.randn(1, 64, 512, dtype=torch.float64)
    public, usual = (attention_entropy(block, tokens, scale) for scale in (512**-0.5, 64**-0.5))
    assert usual < public - 1 < math.log(64) - 1
    assert attention_entropy(block, tokens, 0.0) == pytest.approx(math.log(64))
    assert pytest.approx(2.8, abs=0.05) == (512 / 64) ** 0.5


def test_a_constant_inside_the_logs_caps_the_discrepancy():
    narrow, wide = discrepancy_on_a_line(0.5), discrepancy_on_a_line(2.0)
    assert [round(v["KL(S || P)"]) for v in (narrow, wide)] == [3329, 205]
    assert [round(v["KL(S || P), eps in the logs"], 1) for v in (narrow, wide)] == [4.4, 3.8]
    assert [round(v["symmetric"]) for v in (narrow, wide)] == [3333, 208]
    assert [round(v["symmetric, eps in the logs"], 1) for v in (narrow, wide)] == [8.3, 6.3]


def test_the_exact_discrepancy_on_a_line_by_loops():
    n, sigma, total = 7, 1.3, 0.0
    for i in range(n):
        row = [math.exp(-((i - j) ** 2) / (2 * sigma**2)) for j in range(n)]
        for value in row:
            p = value / sum(row)
            total += (1 / n - p) * (math.log(1 / n) - math.log(p)) / n
    assert discrepancy_on_a_line(sigma, n)["symmetric"] == pytest.approx(total, rel=1e-12)
