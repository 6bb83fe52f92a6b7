"""model.py: shapes, parameter count, noise in training mode only, gradients that reach every parameter."""

import math

import pytest
import torch

from advit.config import ADViTConfig, with_options
from advit.filters import feature_count
from advit.masks import random_masks
from advit.model import EncoderLayer
from advit.networks import build_network, by_place, shrunk, training_terms
from advit.precision import full_precision, resolve_precision
from advit.presets import PRESETS

SMALL = with_options(
    ADViTConfig(),
    dict(image_size=32, patch=8, dim=24, depth=2, heads=3, mlp_dim=32, bottleneck=16, components=2,
         density_hidden=8, target_dim=6),
)  # fmt: skip
FEATURES = feature_count(4)
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CONTEXTS = [("self", "encoded"), ("self", "pixels"), ("others", "pixels"), ("others", "filters")]


def config(context, target, **options):
    return with_options(SMALL, {"density_context": context, "density_target": target, **options})


def test_shapes():
    out = build_network(config("self", "encoded"), 0)(IMAGES)
    assert out.encoded.shape == (2, 16, 24)
    assert out.reconstruction.shape == (2, 3, 32, 32)
    assert out.nll.shape == (2, 16)
    assert [a.series.shape for a in out.associations] == [(2, 3, 16, 16)] * 2


@pytest.mark.parametrize("context, target", CONTEXTS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_objective_reaches_every_parameter_with_finite_gradients(context, target, precision):
    network = build_network(config(context, target, precision=precision), 0)
    if network.target is not None:
        network.target.fit([IMAGES])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        terms = training_terms(network.train(), IMAGES, torch.Generator().manual_seed(0))
    terms["total"].backward()
    for name, p in network.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_noise_is_added_in_training_mode_only():
    network = build_network(config("self", "encoded"), 0)
    noise = torch.randn(2, 16, 24)
    network.eval()
    assert torch.equal(network(IMAGES, noise=noise).nll, network(IMAGES).nll)
    network.train()
    assert not torch.equal(network(IMAGES, noise=noise).nll, network(IMAGES).nll)


def test_parameters_of_the_paper_preset_are_the_predicted_ones():
    c = PRESETS["paper"]
    n, d, pixels = c.grid**2, c.dim, 3 * c.patch**2
    layer = (3 * d * d + 3 * d) + (d * c.heads + c.heads) + (d * d + d) + 4 * d + (2 * d * c.mlp_dim + c.mlp_dim + d)
    encoder = pixels * d + d + n * d + c.depth * layer + 2 * d
    vector = n * d * c.bottleneck
    density = (d + 1) * c.components * (1 + 2 * d)
    network = build_network(c, 0)
    counted = {
        "encoder": sum(p.numel() for k, p in network.named_parameters() if k.split(".")[0] in
                       ("embed", "position", "layers", "norm")),
        "vector": sum(p.numel() for p in network.to_vector.parameters()),
        "density": sum(p.numel() for p in network.density.parameters()),
    }  # fmt: skip
    assert counted == {"encoder": encoder, "vector": vector, "density": density}
    assert vector == 16_777_216


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one = build_network(SMALL, 1)
    assert torch.equal(torch.rand(3), expected)
    two, other = build_network(SMALL, 1), build_network(SMALL, 2)
    assert torch.equal(one.embed.weight, two.embed.weight)
    assert not torch.equal(one.embed.weight, other.embed.weight)


def test_full_precision_lifts_half_only():
    assert full_precision(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert full_precision(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_auto_precision_is_resolved_to_what_the_device_has(monkeypatch):
    cpu = torch.device("cpu")
    for has, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has, raising=False)
        assert resolve_precision("auto", cpu) == expected
    assert resolve_precision("bfloat16", cpu) == "bfloat16"
    assert resolve_precision("auto", torch.device("mps")) == "float32"


def test_an_encoder_layer_is_two_residual_steps_with_norms_first():
    layer = EncoderLayer(SMALL).double()
    x = torch.randn(2, 16, 24, dtype=torch.float64)
    y = x + layer.attention(layer.norm_attention(x))[0]
    assert torch.allclose(layer(x)[0], y + layer.mlp(layer.norm_mlp(y)))


def test_density_is_per_dimension_with_a_target_that_has_no_noise_and_no_gradient():
    from advit.mdn import mixture_nll

    network = build_network(config("self", "encoded"), 0).train()
    noise = torch.randn(2, 16, 24)
    out = network(IMAGES, noise=noise)
    encoded, _ = network.encode(IMAGES)
    expected = mixture_nll(encoded.detach(), network.density(encoded + noise)) / 24
    assert torch.allclose(out.nll, expected, atol=1e-5)
    network.density.requires_grad_(False)
    network.zero_grad()
    mixture = network.density((encoded + noise).detach())
    assert not mixture.mean.requires_grad and encoded.requires_grad  # what is left would come through the target
    features = (encoded + noise).detach()
    assert not network.patch_nll(features, encoded.detach()).requires_grad
    cut = build_network(config("self", "encoded"), 0).train()  # as the weights' own gradients show
    cut(IMAGES, noise=noise).nll.sum().backward()
    ours = cut.embed.weight.grad.clone()
    cut.zero_grad()
    encoded, _ = cut.encode(IMAGES)
    (mixture_nll(encoded.detach(), cut.density(encoded + noise)) / 24).sum().backward()
    assert torch.allclose(ours, cut.embed.weight.grad, rtol=1e-4, atol=1e-6)


def test_the_noise_of_a_step_has_the_configured_sd_and_reaches_the_reconstruction(monkeypatch):
    network = build_network(config("self", "encoded", noise_sd=0.37), 0).train()
    seen = []
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *a: seen.append(a[2]) or forward(*a))
    training_terms(network, IMAGES, torch.Generator().manual_seed(0))
    assert seen[0].std().item() == pytest.approx(0.37, rel=0.1)
    assert not torch.equal(forward(IMAGES, None, seen[0]).reconstruction, forward(IMAGES).reconstruction)


CELLS = dict(target_cells=2, mask_blocks="1,2,all", mask_share=0.25)


def test_every_place_of_a_patch_has_a_density_of_its_own():
    network = build_network(config("others", "filters", **CELLS), 0)
    network.target.fit([IMAGES])
    out = network(IMAGES)
    assert out.nll.shape == (2, 16 * 4) and out.nll.isfinite().all()
    assert network.target(IMAGES).shape == (2, 64, 3 * FEATURES)
    values = by_place(torch.arange(6).view(2, 3), network.config)
    assert values.tolist() == [[0] * 4 + [1] * 4 + [2] * 4, [3] * 4 + [4] * 4 + [5] * 4]


def test_only_hidden_places_are_trained_on_and_by_their_nll_whatever_the_score():
    terms = []
    for score in ("nll", "surprise"):
        network = build_network(config("others", "filters", **CELLS, density_score=score, noise_sd=0.0), 0).train()
        network.target.fit([IMAGES])
        terms.append(training_terms(network, IMAGES, torch.Generator().manual_seed(3))["density"].item())
    generator = torch.Generator().manual_seed(3)
    torch.randn(2, 16, 24, generator=generator)  # the noise is drawn first
    mask = random_masks(network.config, 2, generator)
    nll = network(IMAGES, mask).nll
    hidden = [nll[b, 4 * i + s].item() for b in range(2) for i in range(16) for s in range(4) if mask[b, i]]
    assert 0 < len(hidden) < nll.numel()
    assert terms == pytest.approx([sum(hidden) / len(hidden)] * 2, rel=1e-5)


@pytest.mark.parametrize("score", ["nll", "surprise"])
def test_the_score_is_that_of_the_place_and_a_share_of_what_its_neighbourhood_adds(score):
    """By loops in float64: -log p(r) - a log p(v | r), per dimension; the surprise is that less what is expected.

    No number counts as more than 1.5 sd off.
    """
    network = filtering(**CELLS, density_score=score, most_deviation=1.5)
    with torch.no_grad():
        encoded, _ = network.encode(IMAGES)
        target, mixture = network.target(IMAGES), network.density(encoded)
        found = {}
        for share in (0.0, 0.25, 1.0):
            network.config = with_options(network.config, {"near_share": share})
            found[share] = network.patch_density(encoded, target)[1, 7].item()
    log_weight, mean, log_variance = (x[1, 7].double().tolist() for x in vars(mixture).values())
    values = target[1, 7].double().tolist()

    def improbable(count):
        likelihood = expected = 0.0
        for k, log_w in enumerate(log_weight):
            log, entropy = log_w, -log_w
            for d in range(count):
                squared = (values[d] - mean[k][d]) ** 2 * math.exp(-log_variance[k][d])
                log -= 0.5 * (min(squared, 1.5**2) + log_variance[k][d] + math.log(2 * math.pi))
                entropy += 0.5 * (1 + math.log(2 * math.pi) + log_variance[k][d])
            likelihood, expected = likelihood + math.exp(log), expected + math.exp(log_w) * entropy
        return -math.log(likelihood) - (expected if score == "surprise" else 0)

    alone, both = improbable(FEATURES), improbable(3 * FEATURES)
    assert abs(alone - both) > 1
    for share, value in found.items():
        expected = (alone + share * (both - alone)) / (FEATURES * (1 + 2 * share))
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("target", ["pixels", "encoded"])
def test_targets_without_a_neighbourhood_have_the_plain_nll(target):
    network = build_network(config("self", target, near_share=0.3), 0).eval()
    encoded, _ = network.encode(IMAGES)
    fixed = encoded.detach() if network.target is None else network.target(IMAGES)
    network.config = with_options(network.config, {"density_score": "nll"})
    assert torch.equal(network.patch_density(encoded, fixed), network.patch_nll(encoded, fixed))


def filtering(context="others", **options):
    network = build_network(config(context, "filters", **options), 0).eval()
    network.target.fit([IMAGES])
    return network


def test_a_patch_is_embedded_with_its_pixels_and_the_features_of_its_places():
    """Row by row, at the input of the first layer; the target is computed where it is not given."""
    network, seen = filtering(**CELLS), []
    network.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    target = network.target(IMAGES)
    with torch.no_grad():
        network.encode(IMAGES)
        network.encode(IMAGES, None, target)
        network(IMAGES)
        network.encode(IMAGES, None, target.flip(0))
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[3])
    for patch in (0, 6, 15):
        row, column = 8 * (patch // 4), 8 * (patch % 4)
        pixels = IMAGES[1, :, row : row + 8, column : column + 8].permute(1, 2, 0).flatten() - 0.5
        features = torch.cat([target[1, 4 * patch + place, :FEATURES] for place in range(4)])
        expected = network.embed.weight @ pixels + network.embed.bias + network.position[0, patch]
        expected = expected + network.embed_features.weight @ features + network.embed_features.bias
        assert torch.allclose(seen[0][1, patch], expected, atol=1e-4)


def test_only_filters_are_embedded_besides_the_pixels():
    for context, target in CONTEXTS:
        network = build_network(config(context, target), 0)
        assert (network.embed_features is not None) == (target == "filters")
    assert filtering(**CELLS).embed_features.weight.shape == (24, 4 * FEATURES)


@pytest.mark.parametrize("cells", [1, 2])
def test_encoded_features_do_not_depend_on_what_a_hidden_patch_holds(cells):
    """Neither on its pixels nor on its features, nor on how its neighbourhood, or that of a patch beside it, looks."""
    network, n = filtering(target_cells=cells), cells**2
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, [2, 5, 11]] = True
    target, pixels = network.target(IMAGES), IMAGES.clone().view(2, 3, 4, 8, 4, 8)
    features = target.clone().view(2, 16, n, 3 * FEATURES)
    features[..., FEATURES:] += 7
    for patch in (2, 5, 11):
        pixels[:, :, patch // 4, :, patch % 4] = 1 - pixels[:, :, patch // 4, :, patch % 4]
        features[:, patch] += 7
    changed, features = pixels.view_as(IMAGES), features.view_as(target)
    with torch.no_grad():
        sound, _ = network.encode(IMAGES, mask, target)
        hidden, _ = network.encode(changed, mask, features)
        assert torch.equal(sound, hidden)
        for other in ((changed, None, target), (IMAGES, None, features)):  # without the mask either is seen
            assert not torch.allclose(network.encode(*other)[0], network.encode(IMAGES, None, target)[0], atol=1e-3)
        features[:, 6 * n] += 7  # a patch that is not hidden
        assert not torch.allclose(network.encode(changed, mask, features)[0], sound, atol=1e-3)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_the_reconstruction_is_smaller_and_compared_with_means_of_squares_of_pixels(scale):
    network = filtering(reconstruction_scale=scale)
    out = network(IMAGES)
    side = 32 // scale
    assert out.reconstruction.shape == (2, 3, side, side)
    assert out.reconstruction.min() >= 0 and out.reconstruction.max() <= 1
    small = shrunk(IMAGES, network.config)
    assert small.shape == out.reconstruction.shape
    for c, y, x in ((0, 0, 0), (1, 3, 5), (2, side - 1, 2)):
        square = IMAGES[1, c, scale * y : scale * y + scale, scale * x : scale * x + scale]
        expected = sum(v for row in square.tolist() for v in row) / scale**2
        assert small[1, c, y, x].item() == pytest.approx(expected, rel=1e-5)


def test_the_error_of_training_is_that_of_the_small_reconstruction():
    network = filtering("self", reconstruction_scale=2, noise_sd=0.0).train()
    found = training_terms(network, IMAGES, torch.Generator().manual_seed(0))["mse"].item()
    small = IMAGES.view(2, 3, 16, 2, 16, 2).mean(dim=(3, 5))
    expected = (small - network(IMAGES).reconstruction).square().mean().item()
    assert found == pytest.approx(expected, rel=1e-5)
