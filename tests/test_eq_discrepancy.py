"""discrepancy.py against loops, limits, and the block computation against autograd of the dense formula."""

import math

import pytest
import torch

from advit.attention import Associations
from advit.discrepancy import (
    association_discrepancy,
    block_symmetric_kl,
    dense_discrepancy,
    smooth_association,
    symmetric_kl,
)
from advit.patches import patch_distances


def layer(seed=0, batch=2, heads=3, grid=4, dtype=torch.float64, logits_scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    n = grid**2
    logits = torch.randn(batch, heads, n, n, generator=generator, dtype=dtype) * logits_scale
    sigma = torch.rand(batch, heads, n, generator=generator, dtype=dtype) * 3 + 0.05
    return logits, sigma, patch_distances(grid).square().to(dtype)


def test_symmetric_kl_against_loops():
    logits, sigma, squared = layer()
    series, prior, eps = logits.softmax(dim=-1), Associations(logits, sigma, squared).prior, 1e-3
    value = symmetric_kl(prior, series, eps)
    n = series.shape[-1]
    for b, m, i in [(0, 0, 0), (1, 2, 7), (0, 1, 15)]:
        p = [(1 - eps) * v + eps / n for v in prior[b, m, i].tolist()]
        s = [(1 - eps) * v + eps / n for v in series[b, m, i].tolist()]
        forward = sum(a * math.log(a / c) for a, c in zip(p, s, strict=True))
        backward = sum(c * math.log(c / a) for a, c in zip(p, s, strict=True))
        assert value[b, m, i].item() == pytest.approx(forward + backward, rel=1e-10)


def test_equal_associations_give_zero_and_only_they():
    logits, sigma, squared = layer()
    prior = Associations(logits, sigma, squared).prior
    assert symmetric_kl(prior, prior, 1e-4).abs().max().item() < 1e-12
    assert symmetric_kl(prior, logits.softmax(dim=-1), 1e-4).min().item() > 0


def test_value_stays_below_its_bound():
    n, eps = 16, 1e-4
    one, other = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    one[0], other[-1] = 1, 1
    value = symmetric_kl(one, other, eps).item()
    assert value == pytest.approx(2 * (1 - eps) * math.log1p(n * (1 - eps) / eps), rel=1e-9)


def test_smoothing_keeps_rows_normalised():
    row = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert smooth_association(row, 0.2).tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 2e-5)])
@pytest.mark.parametrize("eps", [1e-6, 1e-4, 0.1])
def test_block_computation_equals_autograd_of_the_dense_formula(dtype, tolerance, eps, monkeypatch):
    monkeypatch.setattr("advit.discrepancy.BLOCK_BYTES", 5000)  # several blocks, the last one shorter
    results = []
    for compute in (lambda a: symmetric_kl(a.prior, a.series, eps), lambda a: block_symmetric_kl(a, eps)):
        logits, sigma, squared = layer(dtype=dtype)
        logits.requires_grad_()
        sigma.requires_grad_()
        value = compute(Associations(logits.softmax(dim=-1), sigma, squared))
        (value * torch.linspace(0.5, 2, value.numel(), dtype=dtype).reshape(value.shape)).sum().backward()
        results.append((value.detach(), logits.grad, sigma.grad))
    for dense, blocks in zip(*results, strict=True):
        assert (dense - blocks).abs().max() <= tolerance * dense.abs().max()


def test_block_gradient_against_finite_differences():
    logits, sigma, squared = layer(batch=1, heads=2, grid=2, logits_scale=1.0)
    sigma = sigma + 0.3

    def value(logits, sigma):
        return block_symmetric_kl(Associations(logits.softmax(dim=-1), sigma, squared), 1e-3)

    assert torch.autograd.gradcheck(value, (logits.requires_grad_(), sigma.requires_grad_()))


@pytest.mark.parametrize("sigma_value", [1e-5, 1e-2, 2.0, 100.0])
@pytest.mark.parametrize("logits_scale", [0.0, 1.0, 1000.0])
def test_extreme_associations_stay_finite_in_float32(sigma_value, logits_scale):
    logits, sigma, squared = layer(dtype=torch.float32, logits_scale=logits_scale)
    sigma = torch.full_like(sigma, sigma_value).requires_grad_()
    logits.requires_grad_()
    value = block_symmetric_kl(Associations(logits.softmax(dim=-1), sigma, squared), 1e-4)
    value.sum().backward()
    assert value.isfinite().all() and logits.grad.isfinite().all() and sigma.grad.isfinite().all()


def test_discrepancy_is_the_mean_over_layers_and_heads():
    eps, layers = 1e-4, []
    for seed in range(2):
        logits, sigma, squared = layer(seed)
        layers.append(Associations(logits.softmax(dim=-1), sigma, squared))
    found = association_discrepancy(layers, eps)
    slow = sum(symmetric_kl(a.prior, a.series, eps)[:, m] for a in layers for m in range(3)) / 6
    assert found.shape == (2, 16)
    assert torch.allclose(found, slow) and torch.allclose(dense_discrepancy(layers, eps), slow)
