"""Reconstruction loss: mean squared error and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_window(window: int, sigma: float, like: Tensor) -> Tensor:
    """Normalised 1-D Gaussian of ``window`` taps, on the device and dtype of ``like``."""
    x = torch.arange(window, dtype=like.dtype, device=like.device) - (window - 1) / 2
    weights = torch.exp(-x.square() / (2 * sigma**2))
    return weights / weights.sum()


def ssim(x: Tensor, y: Tensor, window: int = 11, sigma: float = 1.5, data_range: float = 1.0) -> Tensor:
    """Mean structural similarity of two image batches ``(batch, channel, height, width)``; 1 if equal.

    Local means, variances and covariance under a Gaussian window with zero padding, K1 = 0.01, K2 = 0.03.
    Computed as two one-dimensional convolutions, which equals the two-dimensional window exactly.

    Source: Wang et al. 2004, eq. 13; zero padding as in the public code. Test: tests/test_eq_ssim.py
    """
    channels = x.shape[1]
    taps = gaussian_window(window, sigma, x)
    pad = window // 2
    stack = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    n = stack.shape[1]
    stack = F.conv2d(stack, taps.view(1, 1, -1, 1).expand(n, 1, -1, 1), padding=(pad, 0), groups=n)
    stack = F.conv2d(stack, taps.view(1, 1, 1, -1).expand(n, 1, 1, -1), padding=(0, pad), groups=n)
    mx, my, xx, yy, xy = stack.split(channels, dim=1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    numerator = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    return (numerator / ((mx * mx + my * my + c1) * (xx - mx * mx + yy - my * my + c2))).mean()


def reconstruction_loss(
    images: Tensor, reconstruction: Tensor, mse_weight: float, ssim_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """L_rec = w_mse MSE - w_ssim SSIM; the public setting has w_mse = 5 and w_ssim = 0.5.

    Returns:
        Three scalars: L_rec, MSE, SSIM. Source: VT-ADL, eq. 6. Test: tests/test_eq_ssim.py
    """
    with torch.autocast(images.device.type, enabled=False):  # SSIM takes differences of squares
        mse = F.mse_loss(reconstruction, images)
        similarity = ssim(images, reconstruction)
    return mse_weight * mse - ssim_weight * similarity, mse, similarity
