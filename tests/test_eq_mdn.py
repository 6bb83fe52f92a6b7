"""mdn.py against scipy, loops and limits."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from advit.mdn import Mixture, MixtureDensityNetwork, mixture_nll


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
