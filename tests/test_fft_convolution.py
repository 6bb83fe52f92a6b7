"""fft_convolution.py against the direct transposed convolution."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from advit.fft_convolution import SpectralConvTranspose2d


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-6)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_equal_the_direct_computation(dtype, tolerance, layout):
    """Sides, channels and kernel all differ, odd and even sizes of the result."""
    layer = SpectralConvTranspose2d(4, 3, (5, 2)).to(dtype)
    x = torch.randn(2, 4, 9, 12, dtype=dtype).to(memory_format=layout).requires_grad_()
    parts = (x, layer.weight, layer.bias)
    towards = torch.randn(2, 3, 13, 13, dtype=dtype)
    found, direct = layer(x), F.conv_transpose2d(x, layer.weight, layer.bias)
    gradients = (torch.autograd.grad(y, parts, towards) for y in (found, direct))
    for a, b in [(found, direct), *zip(*gradients, strict=True)]:
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_parameters_have_the_names_of_the_layer_that_it_replaces():
    names = [sorted(m(2, 3, 5).state_dict()) for m in (SpectralConvTranspose2d, nn.ConvTranspose2d)]
    assert names[0] == names[1]
