"""The minimax phases: what each moves, and one backward pass against Anomaly Transformer's two."""

import pytest
import torch

from advit.attention import Associations
from advit.config import ADViTConfig, with_options
from advit.discrepancy import dense_discrepancy, minimax_discrepancy
from advit.minimax_attention import Minimax, minimax_attention
from advit.networks import build_network, training_terms
from advit.precision import full_precision

SMALL = with_options(
    ADViTConfig(),
    dict(image_size=32, patch=8, dim=24, depth=2, heads=3, mlp_dim=32, bottleneck=16, components=3, noise_sd=0.0,
         density_context="others", density_target="pixels", target_dim=6, density_hidden=16, minimax_lambda=0.7),
)  # fmt: skip
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def network():
    net = build_network(SMALL, seed=1)
    with torch.no_grad():  # larger weights: associations far from uniform
        for layer in net.layers:
            layer.attention.to_qkv.weight.mul_(4)
            layer.attention.to_sigma.weight.mul_(4)
    return net.double().train()


def gradients(net, loss):
    net.zero_grad(set_to_none=True)
    loss.backward()
    return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


def is_prior(name):
    return "to_sigma" in name


def detached_series(a):
    return Associations(a.queries.detach(), a.keys.detach(), a.sigma)


def detached_prior(a):
    return Associations(a.queries, a.keys, a.sigma.detach())


@pytest.mark.parametrize("phase", ["minimise", "maximise"])
def test_a_phase_moves_its_own_side_only(phase):
    """Last layer: gradients that pass through the tokens would reach both sides of earlier layers."""
    net = network()
    tokens = torch.randn(2, 16, 24, dtype=torch.float64)
    attention = net.layers[0].attention
    _, found = attention(tokens)
    grads = gradients(attention, minimax_discrepancy([found], 1e-4, phase))
    moved = {k for k, g in grads.items() if g.abs().max() > 0}
    if phase == "minimise":
        assert moved == {"to_sigma.weight", "to_sigma.bias"}
    else:
        assert moved == {"to_qkv.weight", "to_qkv.bias"}
        assert grads["to_qkv.weight"][48:].abs().max() == 0  # values take no part in an association


def test_the_minimise_phase_lowers_and_the_maximise_phase_raises_the_discrepancy():
    for phase, sign in [("minimise", -1), ("maximise", 1)]:
        net = network()
        before = dense_discrepancy(net.encode(IMAGES.double())[1], 1e-4).mean()
        grads = gradients(net, minimax_discrepancy(net.encode(IMAGES.double())[1], 1e-4, phase))
        with torch.no_grad():
            for name, p in net.named_parameters():
                if name in grads:
                    p -= 1e-3 * grads[name] / (grads[name].norm() + 1e-12)
        after = dense_discrepancy(net.encode(IMAGES.double())[1], 1e-4).mean()
        assert sign * (after - before) > 0


def test_one_backward_pass_equals_the_sum_of_the_two_phases():
    """Source: Anomaly Transformer, eq. 5: L + lambda AD(P, sg S) and L - lambda AD(sg P, S), two backward passes."""
    eps, lam = SMALL.smoothing_eps, SMALL.minimax_lambda

    def loss_and_layers(net):
        encoded, layers = net.encode(IMAGES.double())
        return encoded.square().mean(), layers

    net = network()
    loss, layers = loss_and_layers(net)
    one = gradients(net, 2 * loss + lam * minimax_discrepancy(layers, eps, "both"))
    loss, layers = loss_and_layers(net)
    first = gradients(net, loss + lam * dense_discrepancy([detached_series(a) for a in layers], eps).mean())
    loss, layers = loss_and_layers(net)
    second = gradients(net, loss - lam * dense_discrepancy([detached_prior(a) for a in layers], eps).mean())
    for name, gradient in one.items():
        both = first.get(name, 0) + second.get(name, 0)
        assert torch.allclose(gradient, both, rtol=1e-8, atol=1e-12), name
    assert any(is_prior(k) and g.abs().max() > 0 for k, g in one.items())


@pytest.mark.parametrize("block_bytes", [300, 1500, 2**21])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("phases", ["both", "maximise", "minimise"])
def test_gradients_of_the_phases_equal_those_of_the_dense_formula(phases, dtype, tolerance, block_bytes, monkeypatch):
    """bfloat16: 2 % of the largest gradient, for products that are rounded to 8 bits in another order."""
    monkeypatch.setattr("advit.blocks.BLOCK_BYTES", block_bytes)
    full = full_precision(torch.zeros(0, dtype=dtype)).dtype
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for _ in range(2):
        q, k = (torch.randn(2, 3, 16, 5, generator=generator, dtype=dtype).mul_(2).requires_grad_() for _ in range(2))
        inputs += [q, k, (torch.rand(2, 3, 16, generator=generator, dtype=full) * 3 + 0.05).requires_grad_()]
    layers = [Associations(*inputs[:3]), Associations(*inputs[3:])]
    found = minimax_discrepancy(layers, 1e-4, phases)
    dense = dense_discrepancy(layers, 1e-4).mean()
    assert found.item() == pytest.approx(dense.item(), rel=tolerance)
    found, dense = (torch.autograd.grad(0.7 * x, inputs, allow_unused=True) for x in (found, dense))
    for i, (a, b) in enumerate(zip(found, dense, strict=True)):
        if phases == ("maximise" if i % 3 == 2 else "minimise"):
            assert a is None
        else:
            b = b if i % 3 == 2 else -b
            assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("block_bytes", [300, 1500, 2**21])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("phases", ["both", "maximise", "minimise", "none"])
def test_one_pass_of_attention_and_discrepancy_equals_the_dense_formulas(
    phases, dtype, tolerance, block_bytes, monkeypatch
):
    """Output and discrepancy together, and their gradients: towards q and k with the discrepancy's reversed."""
    monkeypatch.setattr("advit.blocks.BLOCK_BYTES", block_bytes)
    full = full_precision(torch.zeros(0, dtype=dtype)).dtype
    g = torch.Generator().manual_seed(0)
    q, k, v, towards = (torch.randn(2, 3, 16, 5, generator=g, dtype=dtype).mul_(2) for _ in range(4))
    inputs = [q, k, v, torch.rand(2, 3, 16, generator=g, dtype=full) * 3 + 0.05]
    inputs = [x.requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, discrepancy = minimax_attention(*inputs, Minimax(1e-4, phases))
    layer = Associations(exact[0], exact[1], exact[3])
    dense_out, dense_value = layer.series @ exact[2], dense_discrepancy([layer], 1e-4).mean()
    assert (out - dense_out).abs().max() <= tolerance * dense_out.abs().max()
    assert discrepancy.item() == pytest.approx(dense_value.item(), rel=tolerance)
    found = torch.autograd.grad([out, 0.7 * discrepancy], inputs, [towards, None], allow_unused=True)
    plain = torch.autograd.grad(dense_out, exact[:3], towards.double())
    moved = torch.autograd.grad(0.7 * dense_value, [exact[0], exact[1], exact[3]])
    series, prior = Minimax(1e-4, phases).moves
    expected = [plain[0] - series * moved[0], plain[1] - series * moved[1], plain[2], moved[2] if prior else None]
    for a, b in zip(found, expected, strict=True):
        assert a is None if b is None else (a - b).abs().max() <= tolerance * b.abs().max()


def test_no_phase_gives_a_value_without_gradient():
    _, layers = network().encode(IMAGES.double())
    value = minimax_discrepancy(layers, 1e-4, "none")
    assert not value.requires_grad
    assert value.item() == pytest.approx(dense_discrepancy(layers, 1e-4).mean().item())


@pytest.mark.parametrize("phases", ["both", "maximise", "minimise", "none"])
def test_the_total_is_the_written_sum(phases):
    net = build_network(with_options(SMALL, {"minimax": phases}), 0)
    terms = training_terms(net, IMAGES, torch.Generator().manual_seed(0))
    reconstruction = SMALL.mse_weight * terms["mse"] - SMALL.ssim_weight * terms["ssim"]
    expected = 2 * reconstruction + 0.7 * terms["discrepancy"] + SMALL.density_weight * terms["density"]
    assert terms["total"].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [(dict(phases="minimize"), "phases='minimize': choose one of both, maximise, minimise, none"),
     (dict(kernels="fast"), "kernels='fast': choose one of plain, fused, auto")],
)  # fmt: skip
def test_unknown_phases_and_kernels_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Minimax(**{"eps": 1e-4, "phases": "both"} | options)


def test_other_dtypes_and_patches_of_no_square_are_refused():
    q, sigma = torch.randn(1, 1, 10, 4), torch.ones(1, 1, 10)
    with pytest.raises(ValueError, match="10 patches are no square grid, as 9 or 16 are"):
        minimax_attention(q, q, q, sigma, Minimax(1e-4, "both"))
    with pytest.raises(TypeError, match=r"one dtype; they have torch\.float32, torch\.float32 and torch\.float64"):
        minimax_attention(q, q, q.double(), sigma, Minimax(1e-4, "both"))
