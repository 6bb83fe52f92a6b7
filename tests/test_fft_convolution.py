"""fft_convolution.py against the direct transposed convolution."""

import pytest
import torch
from torch.nn import functional as F

from advit.fft_convolution import Spectral


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("width", [12, 13])
def test_value_and_gradients_equal_the_direct_computation(dtype, tolerance, layout, width):
    """Sides, channels and kernel all differ; results 13 high, and 13 or 14 wide; two images."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 9, width, dtype=dtype, generator=g).to(memory_format=layout).requires_grad_()
    weight = torch.randn(4, 3, 5, 2, dtype=dtype, generator=g).requires_grad_()
    bias = torch.randn(3, dtype=dtype, generator=g)
    towards = torch.randn(2, 3, 13, width + 1, dtype=dtype, generator=g)
    direct = F.conv_transpose2d(x, weight, bias)
    d_x, d_weight = torch.autograd.grad(direct, (x, weight), towards)
    with torch.no_grad():
        ours = Spectral(weight, bias, x.shape[1:])
        found = torch.stack([ours.convolve(image) for image in x])
        gradients = torch.stack([ours.gradients(image, one) for image, one in zip(x, towards, strict=True)])
    for a, b in ((found, direct), (gradients, d_x), (ours.d_weight, d_weight)):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max()
