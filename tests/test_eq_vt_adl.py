"""The public code's computation: against its own outputs, and each formula against slow loops."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advit.errors import CheckpointError, ConfigError
from advit.losses import ssim
from advit.vt_adl import (
    VTADL,
    PublicBlock,
    PublicDensity,
    VTADLOutput,
    load_public_state_dict,
    public_layout,
    public_patch_nll,
    vt_adl_loss,
)
from advit.vt_adl_decoder import PublicDecoder

WITNESS = json.loads((Path(__file__).parent / "data" / "vt_adl_witness.json").read_text())
SMALL = {"image_size": 48, "patch": 16, "dim": 24, "depth": 2, "heads": 3, "mlp_dim": 20, "components": 5}


def small_model(**changes) -> VTADL:
    torch.manual_seed(0)
    return VTADL(**SMALL | changes)


def rule_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor of the witness (tests/data/README.md)."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(1)
    i = np.arange(math.prod(shape), dtype=np.float64)
    v = np.sin(0.7 * i + 0.001 * i * np.sqrt(i) + sum(key.encode()))
    one_axis = len(shape) == 1
    if key.endswith("running_var"):
        v = 1 + v / 4
    elif key.endswith("running_mean"):
        v = v / 10
    elif key.endswith("weight") and ("norm" in key or ("decoder" in key and one_axis)):
        v = 1 + v / 4
    elif one_axis:
        v = v / 20
    elif key == "Digcap.W":
        v = v / 50
    elif "pos_embedding" in key or "cls_token" in key:
        v = v / 2
    elif "decoder" in key:
        v = 1.5 * v / math.sqrt(9 * shape[0])
    else:
        v = 1.4 * v / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


def rule_images() -> Tensor:
    b, c, row, col = np.ogrid[0:2, 0:3, 0:512, 0:512]
    x = 0.5 + 0.25 * np.sin(0.05 * col + 0.03 * row + b) + 0.25 * np.cos(0.002 * col * (c + 1) + 0.021 * row)
    return torch.from_numpy(x.astype(np.float32))


def rule_state(model: VTADL) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    network, density = (
        {key: rule_weight(key, shape) for key, (_, shape) in public_layout(model, part).items()}
        for part in ("network", "density")
    )
    return network, density


@pytest.fixture(scope="module")
def public_model() -> VTADL:
    model = VTADL().eval()
    load_public_state_dict(model, *rule_state(model))
    return model


@pytest.fixture(scope="module")
def rebuilt(public_model) -> dict[str, np.ndarray]:
    images = rule_images()
    with torch.no_grad():
        output = public_model(images)
        loss = vt_adl_loss(output, images)
    return {
        "encoded": output.encoded.numpy(),
        "reconstruction_every_8th": output.reconstruction[:, :, ::8, ::8].numpy(),
        "pi": output.pi.numpy(),
        "patch_nll": output.patch_nll.numpy(),
        "mdn_loss": loss["density"].numpy(),
        "mse": loss["mse"].numpy(),
        "ssim": loss["ssim"].numpy(),
    }


@pytest.mark.parametrize("name", WITNESS["arrays"])
def test_arrays_are_those_of_the_public_code(rebuilt, name):
    expected, array = WITNESS["arrays"][name], rebuilt[name].astype(np.float64)
    assert list(array.shape) == expected["shape"]
    values = np.array(expected["values"])
    sample = array[tuple(np.array(expected["indices"]).T)]
    error = np.abs(sample - values) / np.maximum(np.abs(values), expected["rms"])
    assert error.max() < 1e-4
    assert np.sqrt(np.mean(array**2)) == pytest.approx(expected["rms"], rel=1e-4)


@pytest.mark.parametrize("name", WITNESS["scalars"])
def test_scalars_are_those_of_the_public_code(rebuilt, name):
    assert float(rebuilt[name]) == pytest.approx(WITNESS["scalars"][name], rel=1e-4)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


PUBLIC = {"image_size": 512, "patch": 64, "dim": 512, "depth": 6, "mlp_dim": 1024, "components": 10}


@pytest.mark.parametrize("s", [PUBLIC, SMALL], ids=["public", "small"])
def test_parameter_count_follows_the_formula(public_model, s):
    model = public_model if s is PUBLIC else small_model()
    n, d, m = (s["image_size"] // s["patch"]) ** 2, s["dim"], s["mlp_dim"]
    block = 2 * 2 * d + 3 * d * d + (d * d + d) + (d * m + m) + (m * d + d)
    encoder = (n + 1) * d + d + (3 * s["patch"] ** 2 * d + d) + s["depth"] * block
    capsule, density = 512 * n * d, s["components"] * d + 2 * s["components"] * d * d
    layers = [(8, 16, 3), (16, 32, 9), (32, 32, 7), (32, 16, 9), (16, 8, 6), (8, 3, 11)]
    decoder = sum(i * o * k * k + o for i, o, k in layers) + 2 * (16 + 32 + 32 + 16 + 8)
    assert count(model.capsule) == capsule
    assert count(model.decoder) == decoder
    assert count(model.density) == density
    assert count(model) == encoder + capsule + decoder + density
    if s is PUBLIC:
        assert (encoder, capsule, decoder, density) == (18_933_248, 16_777_216, 142_099, 5_248_000)


def test_public_nll_is_the_formula():
    generator = torch.Generator().manual_seed(1)
    batch, patches, d, k = 2, 3, 4, 5
    z = torch.randn(batch, patches, d, generator=generator, dtype=torch.float64)
    mean = torch.randn(batch, patches, d, k, generator=generator, dtype=torch.float64)
    log_variance = torch.rand(batch, patches, d, k, generator=generator, dtype=torch.float64)
    pi = torch.rand(batch, patches, k, generator=generator, dtype=torch.float64).softmax(-1)
    got = public_patch_nll(z, pi.log(), mean, log_variance)
    for b in range(batch):
        for i in range(patches):
            expected = 0.0
            for c in range(k):
                total = math.log(2 * math.pi)
                for j in range(d):
                    s = log_variance[b, i, j, c].item()
                    total += s + (z[b, i, j] - mean[b, i, j, c]).item() ** 2 / math.exp(s)
                expected += pi[b, i, c].item() * 0.5 * total
            assert got[b, i].item() == pytest.approx(expected, rel=1e-12)


def test_density_network_by_hand():
    network = PublicDensity(dim=2, components=3)
    with torch.no_grad():
        network.pi.weight.copy_(torch.tensor([[0.0, 5.0], [0.0, 5.0], [0.0, 5.0]]))
        network.mean.weight.copy_(torch.arange(12.0).view(6, 2))
        network.log_variance.weight.zero_()
    log_pi, mean, log_variance = network(torch.tensor([[[1.0, -7.0]]]))  # the -7 is clamped to 0
    torch.testing.assert_close(log_pi.exp(), torch.full((1, 1, 3), 1 / 3))
    torch.testing.assert_close(mean[0, 0], torch.tensor([[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]))  # (d, K)
    torch.testing.assert_close(log_variance, torch.full((1, 1, 2, 3), math.log(2)))


def test_block_is_the_formula_with_the_full_width_scale():
    torch.manual_seed(2)
    tokens, d, heads = 5, 12, 3
    block = PublicBlock(dim=d, heads=heads, mlp_dim=7).double()
    x = torch.randn(2, tokens, d, dtype=torch.float64)
    with torch.no_grad():
        got = block(x)[1]
        y, normed = x[1], block.attention_norm(x[1])
        q, k, v = (normed @ w.T for w in block.qkv.weight.split(d))
        mixed = torch.zeros(tokens, d, dtype=torch.float64)
        for head in range(heads):
            part = slice(head * d // heads, (head + 1) * d // heads)
            for i in range(tokens):
                weights = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(d)) for j in range(tokens)]
                mixed[i, part] = sum(w * v[j, part] for j, w in enumerate(weights)) / sum(weights)
        y = y + mixed @ block.attention_out.weight.T + block.attention_out.bias
        hidden = block.mlp_norm(y) @ block.mlp_in.weight.T + block.mlp_in.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        expected = y + hidden @ block.mlp_out.weight.T + block.mlp_out.bias
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def routing(tokens: np.ndarray, weight: np.ndarray, iterations: int = 3) -> np.ndarray:
    """Routing by agreement of one image's capsules, as written: weight (outputs, capsules, length, 8)."""
    votes = np.einsum("ocle,ce->ocl", weight, tokens.reshape(-1, 8))
    logits = np.zeros(votes.shape[:2])
    for _ in range(iterations):
        coupling = np.exp(logits) / np.exp(logits).sum(axis=0)  # softmax over the output capsules
        summed = (coupling[..., None] * votes).sum(axis=1)
        norm = np.linalg.norm(summed, axis=-1, keepdims=True)
        output = norm * summed / (1 + norm**2)
        logits = logits + (output[:, None] * votes).sum(axis=-1)
    return output


def test_capsule_equals_the_routing_loop():
    model = small_model().eval()
    network, density = rule_state(model)
    assert network["Digcap.W"].shape == (1, 9 * 24 // 8, 512, 8)
    load_public_state_dict(model, network, density)
    tokens = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got = model.capsule(tokens).numpy()
    for b in range(2):
        expected = routing(tokens[b].double().numpy(), network["Digcap.W"].double().numpy())
        assert expected.shape == (1, 512)
        np.testing.assert_allclose(got[b], expected[0], rtol=1e-4, atol=1e-6)


def test_capsule_of_zeros_is_zero_with_finite_gradient():
    tokens = torch.zeros(1, 9, 24, requires_grad=True)
    code = small_model().capsule(tokens)
    code.sum().backward()
    assert code.abs().max() == 0
    assert tokens.grad.abs().max() == 0


def test_load_names_every_wrong_key_and_changes_nothing():
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = {key: torch.zeros(shape) for key, (_, shape) in public_layout(model, "network").items()}
    density = {key: torch.zeros(shape) for key, (_, shape) in public_layout(model, "density").items()}
    bad = {**network, "vt.extra": torch.zeros(1), "vt.pos_embedding": torch.zeros(1, 65, 24)}
    del bad["vt.transformer.layers.1.0.fn.fn.to_qkv.weight"]
    with pytest.raises(CheckpointError) as error:
        load_public_state_dict(model, bad, density)
    message = str(error.value)
    assert "missing vt.transformer.layers.1.0.fn.fn.to_qkv.weight" in message
    assert "unexpected vt.extra" in message
    assert "vt.pos_embedding is (1, 65, 24) instead of (1, 10, 24)" in message
    with pytest.raises(CheckpointError, match=r"density state dict does not fit.*missing mu\.weight"):
        load_public_state_dict(model, network, {k: v for k, v in density.items() if k != "mu.weight"})
    with pytest.raises(CheckpointError, match="and 28 more"):
        load_public_state_dict(model, dict(list(network.items())[36:]), density)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_noise_only_in_training_mode_and_from_the_generator():
    model = small_model(noise_sd=0.2)
    model.decoder = nn.Identity()  # not needed here
    images = torch.rand(64, 3, 48, 48)
    clean = model.eval()(images)
    assert torch.equal(clean.encoded, model(images).encoded)
    assert torch.equal(clean.encoded, model.encode(images))
    model.train()
    noisy = model(images, torch.Generator().manual_seed(4))
    again = model(images, torch.Generator().manual_seed(4))
    assert torch.equal(noisy.encoded, again.encoded)
    noise = noisy.encoded - clean.encoded
    assert noise.std().item() == pytest.approx(0.2, rel=0.03)  # 13,824 draws
    assert abs(noise.mean().item()) < 0.01
    both = public_patch_nll(noisy.encoded, *model.density(noisy.encoded))  # noisy input AND noisy target
    torch.testing.assert_close(noisy.patch_nll, both)
    model.noise_sd = 0.0
    assert torch.equal(model(images).encoded, clean.encoded)


def test_loss_is_the_public_sum_and_reaches_every_parameter():
    model = small_model()
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    output = model(images)
    assert isinstance(output, VTADLOutput)
    assert output.reconstruction.shape == images.shape
    assert output.patch_nll.shape == (2, 9)
    loss = vt_adl_loss(output, images)
    mse = (output.reconstruction - images).square().mean()
    density = output.patch_nll.sum() / 2
    expected = 5 * mse - 0.5 * ssim(images, output.reconstruction) + density
    torch.testing.assert_close(loss["total"], expected)
    torch.testing.assert_close(loss["density"], density)
    loss["total"].backward()
    before_norm = [f"decoder.layers.{i}.bias" for i in (0, 3, 6, 9, 12)]  # BatchNorm takes their mean away
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0 or name in before_norm, name


def test_decoder_of_another_size_is_the_512_picture_made_smaller():
    torch.manual_seed(6)
    full, reduced = PublicDecoder().eval(), PublicDecoder(image_size=64).eval()
    reduced.load_state_dict(full.state_dict())
    code = torch.randn(1, 512)
    with torch.no_grad():
        big, small = full(code), reduced(code)
    assert big.shape == (1, 3, 512, 512)
    assert small.shape == (1, 3, 64, 64)
    # antialiased bilinear, 8 to 1: a triangle of half-width 8 around each centre
    taps = np.array([max(0.0, 1 - abs(t - 7.5) / 8) for t in range(16)])
    taps /= taps.sum()
    window = big[0, 1, 8 * 20 - 4 : 8 * 20 + 12, 8 * 33 - 4 : 8 * 33 + 12].numpy()
    assert small[0, 1, 20, 33].item() == pytest.approx(taps @ window @ taps, rel=1e-3, abs=1e-5)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="patch 20 does not divide image_size 48"):
        small_model(patch=20)
    with pytest.raises(ConfigError, match="heads 5 does not divide dim 24"):
        small_model(heads=5)


@pytest.mark.parametrize("training", [True, False])
def test_decoder_is_its_layers_one_after_the_other(training):
    torch.manual_seed(7)
    decoder, code = PublicDecoder().double().train(training), torch.randn(2, 512, dtype=torch.float64)
    layers = copy.deepcopy(decoder.layers)
    with torch.no_grad():
        expected = layers(code.unflatten(1, (8, 8, 8)))
        assert torch.allclose(decoder(code), expected, atol=1e-11)
    for name, value in layers.state_dict().items():
        assert torch.allclose(decoder.layers.state_dict()[name].double(), value.double(), atol=1e-11), name


def test_gradients_of_the_decoder_are_those_of_its_layers():
    """float64, of the code and of all parameters; those of biases before BatchNorm are 0 but for rounding."""
    torch.manual_seed(9)
    decoder = PublicDecoder().double()
    code, layers = torch.randn(2, 512, dtype=torch.float64, requires_grad=True), copy.deepcopy(decoder.layers)
    towards = torch.randn(2, 3, 512, 512, dtype=torch.float64)
    found = torch.autograd.grad(decoder(code), [code, *decoder.parameters()], towards)
    expected = torch.autograd.grad(layers(code.unflatten(1, (8, 8, 8))), [code, *layers.parameters()], towards)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() <= 1e-9 * max(1.0, float(b.abs().max()))


def test_decoder_in_mixed_precision_is_that_of_full_precision_and_takes_no_images_too():
    torch.manual_seed(8)
    decoder, code = PublicDecoder(image_size=64), torch.randn(2, 512)
    other = copy.deepcopy(decoder)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = decoder(code)
    with torch.no_grad():
        assert torch.equal(found, other(code)) and decoder.eval()(code[:0]).shape == (0, 3, 64, 64)
