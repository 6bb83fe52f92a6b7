"""losses.py against loops and torchmetrics."""

import math

import pytest
import torch
from torch.nn import functional as F

import advit.vision  # noqa: F401  (first: torchmetrics imports torchvision)
from advit.losses import gaussian_window, reconstruction_loss, ssim


def slow_ssim(x, y, window=11, sigma=1.5):
    """Every pixel, every tap, in float64, zero outside the image."""
    taps = [math.exp(-((i - window // 2) ** 2) / (2 * sigma**2)) for i in range(window)]
    weight = torch.tensor([[a * b for b in taps] for a in taps], dtype=torch.float64) / sum(taps) ** 2
    x, y = (F.pad(v.double(), (window // 2,) * 4) for v in (x, y))
    total, count = 0.0, 0
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i in range(x.shape[2] - window + 1):
                for j in range(x.shape[3] - window + 1):
                    u, v = (t[b, c, i : i + window, j : j + window] for t in (x, y))
                    mu, mv = (weight * u).sum(), (weight * v).sum()
                    vu, vv = (weight * u * u).sum() - mu**2, (weight * v * v).sum() - mv**2
                    cov = (weight * u * v).sum() - mu * mv
                    top = (2 * mu * mv + 1e-4) * (2 * cov + 9e-4)
                    total += (top / ((mu**2 + mv**2 + 1e-4) * (vu + vv + 9e-4))).item()
                    count += 1
    return total / count


def test_ssim_against_loops():
    x, y = torch.rand(2, 3, 13, 9, generator=torch.Generator().manual_seed(0)), torch.rand(2, 3, 13, 9)
    assert ssim(x, y).item() == pytest.approx(slow_ssim(x, y), abs=2e-6)


@pytest.mark.parametrize("block_bytes", [1, 30_000, 2**20])  # one image at a time, two and then one, all
@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("size", [(13, 9), (70, 130)])  # within a band, over several and a part of one
def test_ssim_and_its_gradient_equal_autograd_of_the_convolution(block_bytes, wanted, size, monkeypatch):
    monkeypatch.setattr("advit.losses.BLOCK_BYTES", block_bytes)
    g = torch.Generator().manual_seed(2)
    x, y = (torch.rand(3, 2, *size, generator=g, dtype=torch.float64) for _ in range(2))
    inputs = [(x, y)[i].requires_grad_() for i in wanted]
    taps = gaussian_window(11, 1.5, x)
    kernel = torch.outer(taps, taps).expand(10, 1, 11, 11)
    u, v, xx, yy, xy = F.conv2d(torch.cat([x, y, x * x, y * y, x * y], 1), kernel, padding=5, groups=10).split(2, 1)
    top = (2 * u * v + 1e-4) * (2 * (xy - u * v) + 9e-4)
    slow = (top / ((u * u + v * v + 1e-4) * (xx - u * u + yy - v * v + 9e-4))).mean()
    found = ssim(x, y)
    assert found.item() == pytest.approx(slow.item(), rel=1e-12)
    for a, b in zip(*(torch.autograd.grad(3 * value, inputs) for value in (found, slow)), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-14)


def test_ssim_of_an_inset_agrees_with_torchmetrics():
    """Theirs pads by reflection, ours by zeros; with a border of zeros the two are the same."""
    from torchmetrics.functional.image import structural_similarity_index_measure as witness

    g = torch.Generator().manual_seed(1)
    x, y = (F.pad(torch.rand(2, 1, 32, 32, generator=g), (16,) * 4) for _ in range(2))
    theirs = witness(x, y, data_range=1.0, gaussian_kernel=True, sigma=1.5, kernel_size=11).item()
    assert ssim(x, y).item() == pytest.approx(theirs, abs=1e-5)


def test_ssim_is_in_full_precision_under_autocast():
    """Of low contrast, so that differences of squares in bfloat16 would be far off."""
    g = torch.Generator().manual_seed(5)
    x, y = (0.5 + 0.01 * torch.rand(1, 3, 40, 40, generator=g) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ssim(x, y).equal(ssim(x, y)) and reconstruction_loss(x, y, 5.0, 0.5)[2].dtype == torch.float32
        found = ssim(x, y)
    assert found == ssim(x, y)


def test_equal_images_have_ssim_one_and_loss_minus_its_weight():
    x = torch.rand(1, 3, 16, 16)
    loss, mse, similarity = reconstruction_loss(x, x.clone(), 5.0, 0.5)
    assert similarity.item() == pytest.approx(1, abs=1e-5)
    assert mse.item() == 0
    assert loss.item() == pytest.approx(-0.5, abs=1e-5)


def test_loss_is_the_weighted_sum():
    x, y = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    loss, mse, similarity = reconstruction_loss(x, y, 5.0, 0.5)
    assert mse.item() == pytest.approx(((x - y) ** 2).mean().item())
    assert loss.item() == pytest.approx(5 * mse.item() - 0.5 * similarity.item(), rel=1e-6)
