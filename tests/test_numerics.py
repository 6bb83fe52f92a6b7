"""float32 against float64 over the whole range of sigma, logits and mixture parameters; nothing is NaN or infinite.

References are the same formulas in float64. Tolerances are those that were measured, times about four; where float32
cannot do better, the reason is given.
"""

import math

import pytest
import torch

from advit.attention import Associations, prior_association, prior_scale, series_association
from advit.discrepancy import block_symmetric_kl, symmetric_kl
from advit.mdn import Mixture, MixtureDensityNetwork, expected_nll, mixture_nll
from advit.minimax_attention import Minimax, minimax_attention
from advit.patches import patch_distances

GRIDS = [1, 2, 5, 8]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradients(compute, inputs, dtype):
    """Value, and the gradient of its sum weighted from 0.5 to 2, in a type."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    value = compute(*leaves)
    weights = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value.detach(), torch.autograd.grad((value * weights).sum(), leaves)


def compare(compute, inputs, value_tolerance, gradient_tolerance, least=0.01):
    """float32 against float64 on the same numbers, all finite; errors relative to the largest entry.

    ``least``: a gradient smaller than this is a difference of larger numbers, and its error relative to those.
    """
    inputs = [x.float().double() for x in inputs]  # both start from what float32 can hold
    exact, exact_gradients = with_gradients(compute, inputs, torch.float64)
    found, gradients = with_gradients(compute, inputs, torch.float32)
    assert found.dtype == torch.float32 and found.isfinite().all() and exact.isfinite().all()
    assert (found - exact).abs().max() <= value_tolerance * max(1.0, exact.abs().max().item())
    for mine, true in zip(gradients, exact_gradients, strict=True):
        assert mine.isfinite().all() and true.isfinite().all()
        assert (mine - true).abs().max() <= gradient_tolerance * max(least, true.abs().max().item())
    return exact, exact_gradients


# --- associations


@pytest.mark.parametrize("spread", [0.0, 1e-4, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_series_association(grid, spread):
    """Logits of up to about spread^2 sqrt(d) = 20,000: from uniform to one-hot. A logit of L is known to L 2^-24."""
    q, k = normal(2, 3, grid**2, 4) * spread, normal(2, 3, grid**2, 4, seed=1) * spread
    logit = (q @ k.transpose(-1, -2)).abs().max().item() / 2
    tolerance = 2e-7 * (4 + 4 * logit)
    of_gradients = 4 * tolerance if tolerance < 0.05 else math.inf  # beyond, only finite
    exact, _ = compare(series_association, [q, k], min(1.0, tolerance), of_gradients, 0.1)
    assert torch.allclose(exact.sum(-1), torch.ones_like(exact.sum(-1)))


def test_a_one_hot_series_has_no_gradient_left_and_no_nan():
    q = torch.eye(4)[None, None] * 1e4
    value, gradients = with_gradients(series_association, [q, q.clone()], torch.float32)
    assert torch.equal(value[0, 0], torch.eye(4)) and all(not g.any() for g in gradients)


@pytest.mark.parametrize("raw", [-1e30, -1e3, -20.0, -3.0, 0.0, 3.0, 20.0, 1e3, 1e30])
@pytest.mark.parametrize("sigma_max", [1e-3, 2.0, 64.0])
def test_prior_scale_at_both_ends(raw, sigma_max):
    sigma = prior_scale(torch.tensor([raw], requires_grad=True), sigma_max)
    low, high = math.expm1(math.log1p(sigma_max) * 1e-5), math.expm1(math.log1p(sigma_max) * (1 + 1e-5))
    assert low * (1 - 1e-6) <= sigma.item() <= high * (1 + 1e-5)
    inputs = [torch.tensor([raw], dtype=torch.float64)]
    compare(lambda s: prior_scale(s, sigma_max), inputs, 2e-6, 2e-6, max(1, sigma_max))


@pytest.mark.parametrize("sigma", [1.1e-5, 1e-3, 0.1, 0.5, 1.0, 2.0, 64.0, 1e4])
@pytest.mark.parametrize("grid", GRIDS)
def test_prior_association(grid, sigma):
    """From the identity (no neighbour counts) to uniform."""
    squared = patch_distances(grid).square()

    def compute(s):
        return prior_association(s, squared.to(s.dtype))

    scales = torch.full((1, 2, grid**2), sigma, dtype=torch.float64) * (1 + 0.01 * normal(1, 2, grid**2))
    exact, _ = compare(compute, [scales], 1e-6, 2e-4)
    if sigma < 1e-2:
        assert torch.allclose(exact, torch.eye(grid**2, dtype=torch.float64).expand_as(exact))


# --- discrepancy


def layer(grid, spread, sigma):
    n = grid**2
    q, k = normal(1, 2, n, 4, seed=2) * spread, normal(1, 2, n, 4, seed=3) * spread
    return [q, k, torch.full((1, 2, n), sigma, dtype=torch.float64) * (1 + 0.01 * normal(1, 2, n, seed=4))]


@pytest.mark.parametrize("how", ["dense", "plain", "auto"])
@pytest.mark.parametrize("eps", [1e-6, 1e-4, 0.3])
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("sigma", [1.1e-5, 0.3, 1.0, 2.0, 64.0])
@pytest.mark.parametrize("grid", [2, 5])
def test_discrepancy(grid, sigma, spread, eps, how):
    """Its logarithms amplify errors by 1 / eps at most, where an association is nearly 0."""
    squared = patch_distances(grid).square()

    def compute(q, k, s):
        a = Associations(q, k, s, squared.to(s.dtype))
        return symmetric_kl(a.prior, a.series, eps) if how == "dense" else block_symmetric_kl(a, eps, how)

    exact, _ = compare(compute, layer(grid, spread, sigma), 3e-5, 3e-3)
    assert exact.min() >= -1e-12
    assert exact.max() <= 2 * math.log1p(grid**2 * (1 - eps) / eps) + 1e-9


@pytest.mark.parametrize("how", ["dense", "plain", "auto"])
def test_discrepancy_of_opposite_one_hot_rows(how):
    """The prior at the patch itself, the series at another: the bound, not infinity; gradients vanish."""
    n, eps = 9, 1e-4
    k = torch.eye(n)[None, None] * 1e3
    q = k.roll(1, dims=-1)
    sigma = torch.full((1, 1, n), 1.1e-5)
    squared = patch_distances(3).square()

    def compute(q, k, s):
        a = Associations(q, k, s, squared.to(s.dtype))
        return symmetric_kl(a.prior, a.series, eps) if how == "dense" else block_symmetric_kl(a, eps, how)

    value, gradients = with_gradients(compute, [q, k, sigma], torch.float32)
    bound = 2 * (1 - eps) * math.log1p(n * (1 - eps) / eps)
    assert value.flatten().tolist() == pytest.approx([bound] * n, rel=1e-5)
    assert all(g.isfinite().all() and g.abs().max() < 1e-3 for g in gradients)


@pytest.mark.parametrize("kernels", ["plain", "auto"])
@pytest.mark.parametrize("phases", ["both", "none"])
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0, 100.0])
@pytest.mark.parametrize("sigma", [1.1e-5, 0.3, 2.0, 64.0])
def test_attention_and_discrepancy_in_bfloat16(sigma, spread, phases, kernels):
    """Of bfloat16 queries, keys and values, against float64 of the same rounded inputs. Only plain products round, too.

    A logit of L is known to L 2^-8. Up to logits of about 4, output and discrepancy within 2 %, gradients within 5 % of
    the largest entry; beyond, where the largest logit decides, they are finite and the discrepancy below its bound.
    """
    n, eps = 25, 1e-4
    rounded = [(normal(1, 2, n, 8, seed=i) * s).bfloat16() for i, s in enumerate((spread, spread, 1, 1))]
    scale = torch.full((1, 2, n), sigma) * (1 + 0.01 * normal(1, 2, n, seed=4).float())
    leaves = [x.clone().requires_grad_() for x in (*rounded[:3], scale)]
    out, value = minimax_attention(*leaves, Minimax(eps, phases, kernels))
    found = torch.autograd.grad([out, value], leaves, [rounded[3], None], allow_unused=True)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    layer = Associations(exact[0], exact[1], exact[3])
    dense, dense_value = layer.series @ exact[2], symmetric_kl(layer.prior, layer.series, eps).mean()
    assert out.dtype == torch.bfloat16 and value.dtype == torch.float32
    assert out.isfinite().all() and 0 <= value <= 2 * math.log1p(n * (1 - eps) / eps)
    assert all(g is None or g.isfinite().all() for g in found)
    if spread > 1:
        return
    assert (out - dense).abs().max() <= 0.02 * dense.abs().max()
    assert value.item() == pytest.approx(dense_value.item(), rel=0.02)
    true = torch.autograd.grad(dense, exact[:3], rounded[3].double())
    if phases == "both":
        moved = torch.autograd.grad(dense_value, [exact[0], exact[1], exact[3]])
        true = [true[0] - moved[0], true[1] - moved[1], true[2], moved[2]]
    for mine, expected in zip(found, true, strict=False):
        assert (mine - expected).abs().max() <= 0.05 * expected.abs().max() + 1e-6


# --- mixture


@pytest.mark.parametrize("log_variance", [-50.0, -7.0, 0.0, 20.0])
@pytest.mark.parametrize("logits", [0.0, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("distance", [0.0, 1.0, 100.0])
def test_mixture_nll(distance, logits, log_variance):
    """The variance at its floor (the configuration's lowest floor is -50), components of weight 0, far targets."""
    target = normal(2, 3, 5) + distance
    mean, spread = normal(2, 3, 4, 5, seed=1), normal(2, 3, 4, 5, seed=2)

    def compute(z, w, m, v):
        return mixture_nll(z, Mixture(torch.log_softmax(w, -1), m, v))

    inputs = [target, normal(2, 3, 4, seed=3) * logits, mean, log_variance + 0.1 * spread]
    exact, _ = compare(compute, inputs, 2e-6, 1e-4)
    assert exact.shape == (2, 3)


@pytest.mark.parametrize("raw", [-1e4, -20.0, 0.0, 20.0, 80.0])
@pytest.mark.parametrize("floor", [-50.0, -7.0, 0.0])
def test_network_outputs_stay_in_their_range(raw, floor):
    """The heads driven to any value: the variance stays above its floor, the weights sum to 1, gradients are finite."""
    net = MixtureDensityNetwork(in_dim=3, target_dim=2, components=4, hidden=0, log_variance_floor=floor)
    with torch.no_grad():
        net.to_log_variance.bias.fill_(raw)
        net.to_weight.bias.copy_(torch.tensor([raw, 0.0, -raw, raw]))
    features = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mixture = net(features)
    assert (mixture.log_variance >= floor).all() and mixture.log_weight.logsumexp(-1).abs().max() < 1e-5
    value = mixture_nll(torch.zeros(2, 5, 2), mixture)
    expected = expected_nll(mixture)
    (value + expected).sum().backward()
    assert value.isfinite().all() and expected.isfinite().all() and features.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("weight", [-1e4, -200.0, -math.inf])
def test_a_component_without_weight_changes_nothing(weight):
    """Its Gaussian may be anything; the others give the value and the gradient."""
    z, mean = normal(1, 2, 3).float(), normal(1, 2, 3, 3, seed=1).float()
    logits = torch.tensor([0.3, -0.2, weight]).expand(1, 2, 3)
    log_weight = torch.log_softmax(logits, -1)
    log_variance = torch.zeros(1, 2, 3, 3)
    log_variance[:, :, 2] = -7
    mean = mean.requires_grad_()
    value = mixture_nll(z, Mixture(log_weight, mean, log_variance))
    two = mixture_nll(z, Mixture(torch.log_softmax(logits[..., :2], -1), mean[:, :, :2], log_variance[:, :, :2]))
    assert torch.allclose(value, two, atol=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), mean)
    assert gradient.isfinite().all() and not gradient[:, :, 2].any()


def test_gradients_against_finite_differences_at_the_ends():
    """float64, one-hot-like series, a narrow and a wide prior, a component of weight 1e-9, variance e^-7."""
    squared = patch_distances(2).square().double()

    def discrepancy(q, k, s):
        return block_symmetric_kl(Associations(q, k, s, squared), 1e-2)

    for spread, sigma in ((3.0, 0.35), (0.1, 30.0)):
        q, k, s = (x.requires_grad_() for x in layer(2, spread, sigma))
        assert torch.autograd.gradcheck(discrepancy, (q, k, s), atol=1e-6)
    logits = torch.tensor([[[0.0, -20.0]]], dtype=torch.float64, requires_grad=True)
    mean, log_variance = normal(1, 1, 2, 3).requires_grad_(), (normal(1, 1, 2, 3) * 0.1 - 7).requires_grad_()
    z = (mean.detach()[:, :, 0] + 0.01).requires_grad_()

    def nll(z, w, m, v):
        return mixture_nll(z, Mixture(torch.log_softmax(w, -1), m, v))

    assert torch.autograd.gradcheck(nll, (z, logits, mean, log_variance), atol=1e-5)
