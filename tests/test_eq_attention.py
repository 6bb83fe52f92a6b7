"""attention.py against slow float64 loops written from the formulas."""

import math

import pytest
import torch

from advit.attention import AnomalyAttention, prior_association, prior_scale, series_association
from advit.discrepancy import dense_discrepancy
from advit.minimax_attention import Minimax, minimax_attention
from advit.patches import patch_distances
from advit.precision import full_precision


def test_prior_is_a_normalised_gaussian_in_patch_distance():
    grid, heads, batch = 3, 2, 4
    sigma = torch.rand(batch, heads, grid**2, dtype=torch.float64) * 3 + 0.2
    distances = patch_distances(grid).double()
    prior = prior_association(sigma, distances.square())
    for b, m, i in [(0, 0, 0), (3, 1, 4), (2, 0, 8)]:
        row = [math.exp(-distances[i, j].item() ** 2 / (2 * sigma[b, m, i].item() ** 2)) for j in range(grid**2)]
        assert prior[b, m, i].tolist() == pytest.approx([v / sum(row) for v in row], rel=1e-12)
    assert torch.allclose(prior.sum(dim=-1), torch.ones(batch, heads, grid**2, dtype=torch.float64))


def test_scale_is_anomaly_transformers_for_a_range_of_two():
    raw = torch.linspace(-3, 3, 7, dtype=torch.float64)
    expected = [3 ** (1 / (1 + math.exp(-5 * s)) + 1e-5) - 1 for s in raw.tolist()]
    assert prior_scale(raw, 2.0).tolist() == pytest.approx(expected, rel=1e-12)
    assert 0 < prior_scale(torch.tensor(-50.0), 2.0).item() < 2e-5
    assert prior_scale(torch.tensor(50.0), 8.0).item() == pytest.approx(8, abs=1e-3)


def test_attention_against_loops():
    dim, heads, grid, batch = 12, 3, 2, 2
    layer = AnomalyAttention(dim=dim, heads=heads, grid=grid, sigma_max=4.0).double()
    x = torch.randn(batch, grid**2, dim, dtype=torch.float64)
    out, found = layer(x)
    width, n = dim // heads, grid**2
    qkv = x @ layer.to_qkv.weight.T + layer.to_qkv.bias
    for b in range(batch):
        rows = []
        for i in range(n):
            parts = []
            for m in range(heads):
                q, k, v = (
                    [qkv[b, j, third * dim + m * width : third * dim + (m + 1) * width] for j in range(n)]
                    for third in range(3)
                )
                logits = torch.stack([q[i] @ k[j] / math.sqrt(width) for j in range(n)])
                weights = logits.exp() / logits.exp().sum()
                assert torch.allclose(found.series[b, m, i], weights, atol=1e-12)
                parts.append(sum(w * vj for w, vj in zip(weights, v, strict=True)))
            rows.append(torch.cat(parts))
        expected = torch.stack(rows) @ layer.to_out.weight.T + layer.to_out.bias
        assert torch.allclose(out[b], expected, atol=1e-12)
    raw = x @ layer.to_sigma.weight.T + layer.to_sigma.bias
    assert found.sigma[1, 2, 3].item() == pytest.approx(prior_scale(raw[1, 3, 2], 4.0).item(), rel=1e-5)
    assert torch.allclose(found.series.sum(dim=-1), torch.ones(batch, heads, n).double())


@pytest.mark.parametrize("block_bytes", [300, 1500, 9000, 2**21])  # rows cut, some pairs, a shorter last block, one
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 5e-6), (torch.bfloat16, 4e-2)])
def test_attention_in_blocks_equals_autograd_of_the_dense_formula(dtype, tolerance, block_bytes, monkeypatch):
    """Witness in float64 of the same inputs; in bfloat16 within 4 % of the largest entry (steps are 0.8 %)."""
    monkeypatch.setattr("advit.blocks.BLOCK_BYTES", block_bytes)
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 16, 5, generator=g, dtype=dtype).mul_(2).requires_grad_() for _ in range(3)]
    towards = torch.randn(2, 3, 16, 5, generator=g, dtype=dtype)
    found, _ = minimax_attention(*inputs, scales(2, 3, 16, dtype), Minimax(1e-4, "none"))
    exact = [x.detach().double().requires_grad_() for x in inputs]
    dense = series_association(*exact[:2]) @ exact[2]
    gradients = torch.autograd.grad(found, inputs, towards), torch.autograd.grad(dense, exact, towards.double())
    for a, b in [(found, dense), *zip(*gradients, strict=True)]:
        assert a.dtype == dtype
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def scales(batch, heads, n, dtype):
    full = full_precision(torch.zeros(0, dtype=dtype)).dtype
    return torch.rand(batch, heads, n, generator=torch.Generator().manual_seed(1), dtype=full) * 3 + 0.05


def test_attention_in_blocks_against_finite_differences_and_at_extreme_logits():
    q, k, v = (torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    sigma = scales(1, 2, 4, torch.float64)
    assert torch.autograd.gradcheck(lambda *x: minimax_attention(*x, sigma, Minimax(1e-4, "none"))[0], (q, k, v))
    big = [(x.detach().float() * 1000).requires_grad_() for x in (q, k, v)]
    out, discrepancy = minimax_attention(*big, sigma.float(), Minimax(1e-4, "both"))
    (out.sum() + discrepancy).backward()
    assert out.isfinite().all() and all(x.grad.isfinite().all() for x in big)


def test_output_is_the_same_with_and_without_the_discrepancy():
    layer = AnomalyAttention(dim=12, heads=3, grid=4, sigma_max=4.0).double()
    x = torch.randn(2, 16, 12, dtype=torch.float64)
    plain, with_discrepancy = layer(x), layer(x, Minimax(1e-3, "both"))
    assert torch.allclose(plain[0], with_discrepancy[0], atol=1e-12)
    assert plain[1].discrepancy is None
    expected = dense_discrepancy([plain[1]], 1e-3).mean()
    assert with_discrepancy[1].discrepancy.item() == pytest.approx(expected.item(), rel=1e-10)
