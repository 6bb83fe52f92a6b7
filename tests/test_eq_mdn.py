"""mdn.py against scipy, loops and limits."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from advit.mdn import Mixture, MixtureDensityNetwork, expected_nll, mixture_nll


def mixture(batch=2, n=3, k=4, d=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Mixture(
        torch.log_softmax(torch.randn(batch, n, k, generator=g, dtype=torch.float64), dim=-1),
        torch.randn(batch, n, k, d, generator=g, dtype=torch.float64),
        torch.randn(batch, n, k, d, generator=g, dtype=torch.float64),
    )


def test_nll_against_scipy():
    m = mixture()
    z = torch.randn(2, 3, 5, dtype=torch.float64)
    nll = mixture_nll(z, m)
    for b in range(2):
        for i in range(3):
            density = 0.0
            for k in range(4):
                covariance = np.diag(m.log_variance[b, i, k].exp().numpy())
                gaussian = multivariate_normal(m.mean[b, i, k].numpy(), covariance)
                density += math.exp(m.log_weight[b, i, k]) * gaussian.pdf(z[b, i])
            assert nll[b, i].item() == pytest.approx(-math.log(density), rel=1e-10)


def test_a_number_counts_as_at_most_so_many_sd_off_by_loops():
    m, z, most = mixture(), 6 * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)).double(), 2.5
    found, limited = mixture_nll(z, m, most), 0
    for b in range(2):
        for i in range(3):
            likelihood = 0.0
            for k in range(4):
                log = m.log_weight[b, i, k].item()
                for j in range(5):
                    away = (z[b, i, j] - m.mean[b, i, k, j]).item() / math.exp(0.5 * m.log_variance[b, i, k, j])
                    limited += abs(away) > most
                    log -= 0.5 * (min(away**2, most**2) + m.log_variance[b, i, k, j].item() + math.log(2 * math.pi))
                likelihood += math.exp(log)
            assert found[b, i].item() == pytest.approx(-math.log(likelihood), rel=1e-10)
    assert 0 < limited < 120
    assert torch.equal(mixture_nll(z, m, 0.0), mixture_nll(z, m)) and torch.equal(
        mixture_nll(z, m, 1e3), mixture_nll(z, m)
    )


def test_one_component_is_a_gaussian_with_all_constants():
    d, v = 3, math.log(0.25)
    m = Mixture(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, d), torch.full((1, 1, 1, d), v))
    z = torch.tensor([[[1.0, 0.0, -0.5]]])
    expected = 0.5 * (d * (math.log(2 * math.pi) + v) + (1 + 0 + 0.25) / 0.25)
    assert mixture_nll(z, m).item() == pytest.approx(expected, rel=1e-6)


def test_it_is_the_log_of_the_mixture_not_the_mixture_of_logs():
    """Two clusters at +-4: log-sum-exp keeps both; the sum of pi_k NLL_k is minimised by one component."""
    torch.manual_seed(0)
    z = torch.cat([torch.randn(500) - 4, torch.randn(500) + 4]).reshape(1, -1, 1)
    weight, mean = torch.zeros(2, requires_grad=True), torch.tensor([-1.0, 1.0], requires_grad=True)
    optimiser = torch.optim.Adam([weight, mean], lr=0.05)
    for _ in range(300):
        n = z.shape[1]
        m = Mixture(
            torch.log_softmax(weight, 0).expand(1, n, 2), mean.reshape(1, 1, 2, 1).expand(1, n, 2, 1),
            torch.zeros(1, n, 2, 1),
        )  # fmt: skip
        optimiser.zero_grad()
        mixture_nll(z, m).mean().backward()
        optimiser.step()
    assert torch.softmax(weight, 0).tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert sorted(mean.tolist()) == pytest.approx([-4, 4], abs=0.2)


def test_extreme_parameters_stay_finite():
    m = mixture()
    far = Mixture(m.log_weight - torch.tensor([0, 0, 0, 1e4]), m.mean * 1e3, torch.full_like(m.log_variance, -7))
    z = torch.zeros(2, 3, 5, dtype=torch.float64, requires_grad=True)
    value = mixture_nll(z, far)
    value.sum().backward()
    assert value.isfinite().all() and z.grad.isfinite().all()


@pytest.mark.parametrize("hidden", [0, 8])
def test_network_shapes_weights_and_variance_floor(hidden):
    net = MixtureDensityNetwork(in_dim=6, target_dim=5, components=4, hidden=hidden, log_variance_floor=-7.0)
    found = net(torch.randn(2, 3, 6))
    assert found.mean.shape == found.log_variance.shape == (2, 3, 4, 5)
    assert torch.allclose(found.log_weight.exp().sum(dim=-1), torch.ones(2, 3), atol=1e-6)
    assert found.log_variance.abs().max() < 2  # starts near variance 1
    torch.nn.init.constant_(net.to_log_variance.bias, -1000.0)
    assert net(torch.zeros(1, 1, 6)).log_variance.min().item() == pytest.approx(-7.0)


def samples(m, count, seed=0):
    """NLL of ``count`` samples of each mixture ``(batch, N, ...)`` under itself, ``(count, batch, N)``."""
    g = torch.Generator().manual_seed(seed)
    batch, n, k, d = m.mean.shape
    chosen = torch.multinomial(m.log_weight.exp().reshape(-1, k), count, replacement=True, generator=g)
    rows = torch.arange(batch * n)[:, None]
    mean, log_variance = (v.reshape(-1, k, d)[rows, chosen] for v in (m.mean, m.log_variance))
    z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=g, dtype=mean.dtype)
    z = z.reshape(batch, n, count, d).permute(2, 0, 1, 3)
    return torch.stack([mixture_nll(x, m) for x in z])


def test_expected_nll_of_one_component_is_scipys_entropy():
    m = mixture(k=1)
    found = expected_nll(m)
    assert found.shape == (2, 3)
    for b in range(2):
        for i in range(3):
            covariance = np.diag(m.log_variance[b, i, 0].exp().numpy())
            assert found[b, i].item() == pytest.approx(multivariate_normal(cov=covariance).entropy(), rel=1e-10)


def test_expected_nll_against_loops():
    m, expected = mixture(), 0.0
    for k in range(4):
        log_weight, entropy = float(m.log_weight[1, 2, k]), 0.0
        for d in range(5):
            entropy += 0.5 * (1 + math.log(2 * math.pi) + float(m.log_variance[1, 2, k, d]))
        expected += math.exp(log_weight) * (entropy - log_weight)
    assert expected_nll(m)[1, 2].item() == pytest.approx(expected, rel=1e-12)


def test_surprise_of_well_separated_components_is_zero_on_average():
    m = mixture()
    apart = Mixture(m.log_weight, m.mean + 100 * torch.arange(4.0)[:, None], m.log_variance)
    nll = samples(apart, 2000)
    assert torch.allclose(nll.mean(dim=0), expected_nll(apart), atol=0.15)  # sd of a sample about 1.6
    assert (nll - expected_nll(apart)).mean().abs() < 0.06


def test_expected_nll_is_an_upper_bound_where_components_overlap():
    m = mixture()
    for scale in (0.0, 0.3, 1.0):
        near = Mixture(m.log_weight, scale * m.mean, scale * m.log_variance)
        assert (samples(near, 1000).mean(dim=0) < expected_nll(near) + 0.05).all()
    same = Mixture(m.log_weight, 0 * m.mean, 0 * m.log_variance)  # four times one Gaussian: over by the weights'
    entropy = -(m.log_weight.exp() * m.log_weight).sum(dim=-1)
    assert torch.allclose(expected_nll(same), 2.5 * (1 + math.log(2 * math.pi)) + entropy)


def test_a_weight_of_nothing_counts_nothing():
    weight = torch.log_softmax(torch.tensor([[[0.0, -1e4]]]), dim=-1)
    m = Mixture(weight, torch.zeros(1, 1, 2, 3), torch.tensor([0.0, 50.0]).view(1, 1, 2, 1).expand(1, 1, 2, 3))
    assert expected_nll(m).item() == pytest.approx(1.5 * (1 + math.log(2 * math.pi)), rel=1e-6)


@pytest.mark.parametrize("hidden", [0, 8])
def test_places_are_independent_mixtures_that_follow_each_other_in_a_patch(hidden):
    sizes = dict(in_dim=6, target_dim=5, components=4, hidden=hidden, log_variance_floor=-7.0)
    net, one = MixtureDensityNetwork(**sizes, places=3), MixtureDensityNetwork(**sizes)
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    found = net(x)
    assert found.log_weight.shape == (2, 21, 4) and found.mean.shape == found.log_variance.shape == (2, 21, 4, 5)
    one.body.load_state_dict(net.body.state_dict())
    for s in range(3):
        for name in ("to_weight", "to_mean", "to_log_variance"):
            ours, theirs = getattr(one, name), getattr(net, name)
            part = slice(s * ours.out_features, (s + 1) * ours.out_features)
            ours.load_state_dict({"weight": theirs.weight[part], "bias": theirs.bias[part]})
        alone = one(x)
        for name in ("log_weight", "mean", "log_variance"):
            assert torch.allclose(getattr(found, name)[:, s::3], getattr(alone, name), atol=1e-6)
    assert not torch.allclose(found.mean[:, 0::3], found.mean[:, 1::3], atol=0.01)


def test_the_marginal_is_the_joint_density_integrated_over_the_other_dimensions():
    """By the trapezoidal rule over a grid of the last dimension."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    m = Mixture(torch.log_softmax(draw(1, 1, 3), -1), draw(1, 1, 3, 3), draw(1, 1, 3, 3) / 2)
    start, last = draw(2), torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    z = torch.cat([start.expand(len(last), 2), last[:, None]], dim=1)[None]
    shared = Mixture(*(x.expand(-1, len(last), *x.shape[2:]) for x in vars(m).values()))
    integral = torch.trapezoid(torch.exp(-mixture_nll(z, shared))[0], last)
    assert mixture_nll(start[None, None], m.marginal(2)).item() == pytest.approx(-math.log(integral), rel=1e-9)
    assert torch.equal(mixture_nll(z, shared.marginal(3)), mixture_nll(z, shared))
