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
from advit.precision import full_precision


def layer(seed=0, batch=2, heads=3, grid=4, width=5, dtype=torch.float64, spread=2.0):
    """Queries and keys with logits of about ``spread`` squared, and a prior from narrow to wide."""
    generator = torch.Generator().manual_seed(seed)
    n = grid**2
    q, k = (torch.randn(batch, heads, n, width, generator=generator, dtype=dtype) * spread for _ in range(2))
    sigma = torch.rand(batch, heads, n, generator=generator, dtype=full_precision(q).dtype) * 3 + 0.05
    return Associations(q, k, sigma)


def leaves(a):
    """The same layer with its own queries, keys and sigma, to differentiate towards."""
    inputs = [x.detach().clone().requires_grad_() for x in (a.queries, a.keys, a.sigma)]
    return inputs, Associations(*inputs)


def test_symmetric_kl_against_loops():
    a, eps = layer(), 1e-3
    series, prior = a.series, a.prior
    value = symmetric_kl(prior, series, eps)
    n = series.shape[-1]
    for b, m, i in [(0, 0, 0), (1, 2, 7), (0, 1, 15)]:
        p = [(1 - eps) * v + eps / n for v in prior[b, m, i].tolist()]
        s = [(1 - eps) * v + eps / n for v in series[b, m, i].tolist()]
        forward = sum(a * math.log(a / c) for a, c in zip(p, s, strict=True))
        backward = sum(c * math.log(c / a) for a, c in zip(p, s, strict=True))
        assert value[b, m, i].item() == pytest.approx(forward + backward, rel=1e-10)


def test_equal_associations_give_zero_and_only_they():
    a = layer()
    assert symmetric_kl(a.prior, a.prior, 1e-4).abs().max().item() < 1e-12
    assert symmetric_kl(a.prior, a.series, 1e-4).min().item() > 0


def test_value_stays_below_its_bound():
    n, eps = 16, 1e-4
    one, other = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    one[0], other[-1] = 1, 1
    value = symmetric_kl(one, other, eps).item()
    assert value == pytest.approx(2 * (1 - eps) * math.log1p(n * (1 - eps) / eps), rel=1e-9)


def test_smoothing_keeps_rows_normalised():
    row = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert smooth_association(row, 0.2).tolist() == pytest.approx([0.85, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("block_bytes", [300, 1500, 9000, 2**21])  # rows cut, some pairs, a shorter last block, one
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("eps", [1e-6, 1e-4, 0.1])
def test_block_computation_equals_autograd_of_the_dense_formula(dtype, tolerance, eps, block_bytes, monkeypatch):
    monkeypatch.setattr("advit.blocks.BLOCK_BYTES", block_bytes)
    results = []
    for compute in (lambda a: symmetric_kl(a.prior, a.series, eps), lambda a: block_symmetric_kl(a, eps)):
        inputs, a = leaves(layer(dtype=dtype))
        value = compute(a)
        weights = torch.linspace(0.5, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
        results.append((value.detach(), *torch.autograd.grad((value * weights).sum(), inputs)))
    for dense, found in zip(*results, strict=True):
        assert dense.dtype == found.dtype
        assert (dense - found).abs().max() <= tolerance * dense.abs().max()


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 2)])
def test_gradients_towards_some_inputs_only(wanted):
    results = []
    for compute in (lambda a: symmetric_kl(a.prior, a.series, 1e-3), lambda a: block_symmetric_kl(a, 1e-3)):
        inputs, a = leaves(layer())
        for i in {0, 1, 2} - set(wanted):
            inputs[i].requires_grad_(False)
        results.append(torch.autograd.grad(compute(a).sum(), [inputs[i] for i in wanted]))
    for dense, found in zip(*results, strict=True):
        assert torch.allclose(dense, found, rtol=1e-10, atol=1e-12)


def test_block_gradient_against_finite_differences():
    a = layer(batch=1, heads=2, grid=2, spread=1.0)

    def value(q, k, sigma):
        return block_symmetric_kl(Associations(q, k, sigma), 1e-3)

    inputs = (a.queries.requires_grad_(), a.keys.requires_grad_(), (a.sigma + 0.3).requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)


@pytest.mark.parametrize("sigma_value", [1e-5, 1e-2, 2.0, 100.0])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_extreme_associations_stay_finite_in_float32(sigma_value, spread):
    found = layer(dtype=torch.float32, spread=spread)
    found.sigma.fill_(sigma_value)
    inputs, a = leaves(found)
    value = block_symmetric_kl(a, 1e-4)
    value.sum().backward()
    assert value.isfinite().all() and all(x.grad.isfinite().all() for x in inputs)


def test_discrepancy_is_the_mean_over_layers_and_heads():
    eps, layers = 1e-4, [layer(seed) for seed in range(2)]
    found = association_discrepancy(layers, eps)
    slow = sum(symmetric_kl(a.prior, a.series, eps)[:, m] for a in layers for m in range(3)) / 6
    assert found.shape == (2, 16)
    assert torch.allclose(found, slow) and torch.allclose(dense_discrepancy(layers, eps), slow)
