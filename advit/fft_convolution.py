"""Transposed convolution of stride 1 as a product of spectra: for large kernels between few channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _SpectralConvTranspose(torch.autograd.Function):
    """y_o = sum_i x_i * w_io, the full linear convolution of ``(batch, I, h, w)`` with ``(I, O, k, l)``.

    With X, W, G the spectra of x, w and dy at the size of y, so that nothing wraps around:
    Y_o = sum_i X_i W_io, dX_i = sum_o G_o conj(W_io), dW_io = sum_batch G_o conj(X_i). One image at a time, and X is
    made anew in the backward pass, so that no spectrum is stored.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        size = full_size(x, weight)
        filters = torch.fft.rfft2(weight, s=size)
        out = x.new_empty(len(x), weight.shape[1], *size)
        padded = x.new_zeros(x.shape[1], *size)
        for image, made in zip(x, out, strict=True):
            made.copy_(torch.fft.irfft2(weighted_sum(spectrum(image, padded), filters), s=size))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        x, weight = ctx.saved_tensors
        size, height, width = full_size(x, weight), *x.shape[-2:]
        towards_x = torch.fft.rfft2(weight, s=size).conj().transpose(0, 1).resolve_conj().contiguous()
        d_x, d_filters = torch.empty_like(x), None
        padded, whole = x.new_zeros(x.shape[1], *size), gradient.new_empty(gradient.shape[1:])
        for image, g, d_image in zip(x, gradient, d_x, strict=True):
            g = spectrum(g, whole)
            if ctx.needs_input_grad[0]:
                d_image.copy_(torch.fft.irfft2(weighted_sum(g, towards_x), s=size)[:, :height, :width])
            if ctx.needs_input_grad[1]:
                conjugate = spectrum(image, padded).conj_physical_()[:, None]
                d_filters = conjugate * g if d_filters is None else d_filters.addcmul_(conjugate, g)
        d_weight = None
        if d_filters is not None:
            d_weight = torch.fft.irfft2(d_filters, s=size)[..., : weight.shape[-2], : weight.shape[-1]]
        return d_x, d_weight


def full_size(x: Tensor, weight: Tensor) -> tuple[int, int]:
    """Height and width of the full linear convolution."""
    return x.shape[-2] + weight.shape[-2] - 1, x.shape[-1] + weight.shape[-1] - 1


def spectrum(image: Tensor, padded: Tensor) -> Tensor:
    """Spectrum of every channel of one image, in the corner of the buffer ``padded``, which is zero elsewhere."""
    padded[:, : image.shape[-2], : image.shape[-1]] = image
    return torch.fft.rfft2(padded)


def weighted_sum(spectra: Tensor, filters: Tensor) -> Tensor:
    """sum_i S_i F_io of ``(I, h, w)`` and ``(I, O, h, w)``: ``(O, h, w)``."""
    total = spectra[0] * filters[0]
    for s, f in zip(spectra[1:], filters[1:], strict=True):
        total.addcmul_(s, f)
    return total


class SpectralConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` of stride 1 without padding, on a CPU by spectra, with its parameters and their names.

    For 8 channels to 3 with 11 x 11 weights at 512 px a quarter of the time of the direct computation, whose vector
    instructions 3 channels fill badly. Equal to rounding. Test: tests/test_fft_convolution.py
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
            return super().forward(x)
        bias = 0 if self.bias is None else self.bias[:, None, None]
        return _SpectralConvTranspose.apply(x, self.weight) + bias
