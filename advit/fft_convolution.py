"""Transposed convolution of stride 1 as a product of spectra: for large kernels between few channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Spectral:
    """y_o = sum_i x_i * w_io + b_o, the full linear convolution of an image ``(I, h, w)`` with ``weight (I, O, k, l)``.

    With X, W, G the spectra of x, w and dy at the size of y, so that nothing wraps around:
    Y_o = sum_i X_i W_io, dX_i = sum_o G_o conj(W_io), dW_io = sum over images of G_o conj(X_i).
    X is made anew for the gradients, so that no spectrum of an image is kept.

    For 8 channels to 3 with 11 x 11 weights at 512 px a quarter of the time of the direct computation, whose vector
    instructions 3 channels fill badly. Equal to rounding. Test: tests/test_fft_convolution.py
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> None:
        """``shape``: that of an image, ``(I, h, w)``."""
        self.bias, self.shape = bias, shape
        self.size = tuple(a + b - 1 for a, b in zip(shape[-2:], weight.shape[-2:], strict=True))
        complex_of = weight.dtype.to_complex()
        self.waves = [waves(n, taps).to(complex_of) for n, taps in zip(self.size, weight.shape[-2:], strict=True)]
        self.waves[1] = self.waves[1][: self.size[1] // 2 + 1]
        self.filters = self.waves[0] @ weight.to(complex_of) @ self.waves[1].T
        self.d_filters: Tensor | None = None
        self.padded = weight.new_zeros(shape[0], *self.size)

    def spectrum(self, image: Tensor) -> Tensor:
        """Spectrum of every channel of an image, in the corner of a buffer that is zero elsewhere."""
        self.padded[:, : image.shape[-2], : image.shape[-1]] = image
        return torch.fft.rfft2(self.padded)

    def convolve(self, image: Tensor) -> Tensor:
        """y ``(O, h + k - 1, w + l - 1)`` of an image."""
        y = torch.fft.irfft2(weighted_sum(self.spectrum(image), self.filters), s=self.size)
        return y if self.bias is None else y.add_(self.bias[:, None, None])

    def gradients(self, image: Tensor, gradient: Tensor) -> Tensor:
        """dx of an image, channels last; its dW is added to ``d_filters``."""
        g, x = torch.fft.rfft2(gradient.contiguous()), self.spectrum(image).conj_physical_()[:, None]
        self.d_filters = x * g if self.d_filters is None else self.d_filters.addcmul_(x, g)
        # sum_o G_o conj(W_io), without a conjugate of the larger W
        d_image = weighted_sum(g.conj_physical_(), self.filters.transpose(0, 1)).conj_physical_()
        d_image = torch.fft.irfft2(d_image, s=self.size)[None, :, : self.shape[1], : self.shape[2]]
        return d_image.contiguous(memory_format=torch.channels_last)[0]

    @property
    def d_weight(self) -> Tensor:
        """dw of all images so far: the inverse transform at the places of the weights alone."""
        height, width = self.size
        twice = torch.full((width // 2 + 1,), 2.0, dtype=self.padded.dtype)  # the other half of the spectrum
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        columns = self.waves[1].conj() * twice[:, None]
        return (self.waves[0].mH @ self.d_filters @ columns).real / (height * width)


def waves(n: int, taps: int) -> Tensor:
    """exp(-2 pi i m k / n) of n frequencies m and places k, ``(n, taps)``: the transform of a few taps, padded to n."""
    turns = torch.outer(torch.arange(n), torch.arange(taps)) % n
    return torch.polar(torch.ones((), dtype=torch.float64), turns.double() * (-2 * math.pi / n))


def weighted_sum(spectra: Tensor, filters: Tensor) -> Tensor:
    """sum_i S_i F_io of ``(I, h, w)`` and ``(I, O, h, w)``: ``(O, h, w)``."""
    total = spectra[0] * filters[0]
    for s, f in zip(spectra[1:], filters[1:], strict=True):
        total.addcmul_(s, f)
    return total
