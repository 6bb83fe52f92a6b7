"""Reconstruction loss: mean squared error and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BAND = 64  # columns of a banded matrix at a time
BLOCK_BYTES = 2**20  # of the four maps of the images that SSIM works on at a time


def gaussian_window(window: int, sigma: float, like: Tensor) -> Tensor:
    """Normalised 1-D Gaussian of ``window`` taps, in the dtype of ``like``, on the CPU."""
    x = torch.arange(window, dtype=like.dtype) - (window - 1) / 2
    weights = torch.exp(-x.square() / (2 * sigma**2))
    return weights / weights.sum()


def band(taps: Tensor, length: int, start: int) -> tuple[slice, Tensor]:
    """What places ``start`` to ``start + BAND`` of an axis read, and the weights ``(read, places)``."""
    reach = len(taps) // 2
    stop = min(length, start + BAND)
    read = torch.arange(max(0, start - reach), min(length, stop + reach))
    apart = read[:, None] - torch.arange(start, stop)
    weights = torch.where(apart.abs() <= reach, taps[(apart + reach).clamp(0, 2 * reach)], 0)
    return slice(int(read[0]), int(read[-1]) + 1), weights


def blur(maps: Tensor, taps: Tensor) -> Tensor:
    """Weighted mean of ``(..., height, width)`` under a symmetric window of odd length in both directions, zero padded.

    Products with a banded matrix, a block of its columns at a time: several times faster on a CPU than a convolution.
    """
    height, width = maps.shape[-2:]
    lines = maps.reshape(-1, width)
    blurred = torch.empty_like(lines)
    for start in range(0, width, BAND):
        read, weights = band(taps, width, start)
        torch.mm(lines[:, read], weights.to(maps.device), out=blurred[:, start : start + BAND])
    pictures = blurred.view(-1, height, width)
    out = torch.empty_like(pictures)
    for start in range(0, height, BAND):
        read, weights = band(taps, height, start)
        out[:, start : start + BAND] = weights.T.contiguous().to(maps.device) @ pictures[:, read]
    return out.view(maps.shape)


class _SSIM(torch.autograd.Function):
    """Sum of the SSIM of all pixels, with its gradient, a few images at a time so that they stay in the cache.

    With u, v the local means, q = blur(x^2 + y^2) and r = blur(x y),
    SSIM = a b / (d e): a = 2 u v + c1, b = 2 (r - u v) + c2, d = u^2 + v^2 + c1, e = q - u^2 - v^2 + c2.
    The window is its own transpose, so d / d y = blur(SSIM_v) + 2 y blur(SSIM_q) + x blur(SSIM_r).
    """

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, taps: Tensor, c1: float, c2: float) -> Tensor:
        total, needed = x.new_zeros(()), ctx.needs_input_grad[:2]
        gradients = [torch.empty_like(z) if wanted else None for z, wanted in zip((x, y), needed, strict=True)]
        together = max(1, BLOCK_BYTES // (4 * x[:1].nbytes)) if x.device.type == "cpu" else len(x)
        for start in range(0, len(x), together):
            part = slice(start, start + together)
            xs, ys = x[part], y[part]
            u, v, q, r = blur(torch.stack([xs, ys, xs * xs + ys * ys, xs * ys]), taps)
            uv, squares = u * v, u * u + v * v
            a, b, d, e = 2 * uv + c1, 2 * (r - uv) + c2, squares + c1, q - squares + c2
            both = d * e
            value = a * b / both
            total += value.sum()
            if not any(needed):
                continue
            by_q, by_r = -value / e, 2 * a / both
            other, own = 2 * (b - a) / both, 2 * value * (d - e) / both
            for gradient, z, w, z_mean, w_mean in ((gradients[0], xs, ys, u, v), (gradients[1], ys, xs, v, u)):
                if gradient is not None:
                    by_mean, by_q_blurred, by_r_blurred = blur(
                        torch.stack([other * w_mean + own * z_mean, by_q, by_r]), taps
                    )
                    gradient[part] = by_mean + 2 * z * by_q_blurred + w * by_r_blurred
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        return *(None if g is None else g * gradient for g in ctx.saved_tensors), None, None, None


def ssim(x: Tensor, y: Tensor, window: int = 11, sigma: float = 1.5, data_range: float = 1.0) -> Tensor:
    """Mean structural similarity of two image batches ``(batch, channel, height, width)``; 1 if equal.

    Local means, variances and covariance under a Gaussian window (of odd length) with zero padding, K1 = 0.01,
    K2 = 0.03. Once differentiable.

    Source: Wang et al. 2004, eq. 13; zero padding as in the public code. Test: tests/test_eq_ssim.py
    """
    taps = gaussian_window(window, sigma, x)
    with torch.autocast(x.device.type, enabled=False):  # it takes differences of squares
        return _SSIM.apply(x, y, taps, (0.01 * data_range) ** 2, (0.03 * data_range) ** 2) / x.numel()


def reconstruction_loss(
    images: Tensor, reconstruction: Tensor, mse_weight: float, ssim_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """L_rec = w_mse MSE - w_ssim SSIM; the public setting has w_mse = 5 and w_ssim = 0.5.

    Returns:
        Three scalars: L_rec, MSE, SSIM. Source: VT-ADL, eq. 6. Test: tests/test_eq_ssim.py
    """
    mse = F.mse_loss(reconstruction, images)
    similarity = ssim(images, reconstruction)
    return mse_weight * mse - ssim_weight * similarity, mse, similarity
