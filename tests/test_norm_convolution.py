"""norm_convolution.py against PyTorch's layers one after the other."""

import copy

import pytest
import torch
from torch import nn

from advit.fft_convolution import Spectral
from advit.norm_convolution import Direct, channel_products, channel_sums, convolution, norm_convolution

CONVOLUTIONS = {
    "strided": (5, dict(kernel_size=5, stride=3, padding=1)),
    "stride 1": (6, dict(kernel_size=4)),
    "few channels, by spectra": (3, dict(kernel_size=(5, 2))),
}


def layers(name: str, dtype: torch.dtype) -> nn.Sequential:
    """BatchNorm with weights that are not 1 and 0, ReLU, transposed convolution."""
    torch.manual_seed(0)
    out, sizes = CONVOLUTIONS[name]
    made = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, out, **sizes)).to(dtype)
    nn.init.uniform_(made[0].weight, -1, 2)
    nn.init.normal_(made[0].bias)
    return made


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_value_gradients_and_running_statistics_are_those_of_the_layers(name, training):
    """float64; 3 x 19 x 23 = 1311 pixels: a whole block of pixels and a part of one."""
    theirs = layers(name, torch.float64).train(training)
    ours = copy.deepcopy(theirs)
    g = torch.Generator().manual_seed(1)
    x = 3 + 2 * torch.randn(3, 8, 19, 23, generator=g, dtype=torch.float64)
    a = x.to(memory_format=torch.channels_last).requires_grad_()
    b = x.clone().requires_grad_()
    for _ in range(2):  # the running statistics of two steps
        found, expected = norm_convolution(a, ours[0], ours[2]), theirs(b)
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-11)
    towards = torch.randn(expected.shape, generator=g, dtype=torch.float64)
    parts = zip(
        torch.autograd.grad(found, [a, *ours.parameters()], towards),
        torch.autograd.grad(expected, [b, *theirs.parameters()], towards),
        strict=True,
    )
    for one, other in parts:
        assert one.shape == other.shape and torch.allclose(one, other, rtol=1e-9, atol=1e-10)
    for key, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[key].double(), value.double(), rtol=1e-12), key


def test_statistics_in_float32_are_near_those_of_float64():
    """Two million pixels far from zero: PyTorch's channels-last sums are off by some 1e-4 here."""
    g = torch.Generator().manual_seed(0)
    x = (3 + torch.randn(8, 4, 500, 500, generator=g)).to(memory_format=torch.channels_last)
    exact = x.double()
    assert torch.allclose(channel_sums(x), exact.sum(dim=(0, 2, 3)), rtol=1e-6)
    assert torch.allclose(channel_products(x, x), exact.square().sum(dim=(0, 2, 3)), rtol=1e-6)


def test_only_the_input_is_kept_for_the_gradient():
    """No tensor of the size of an image but x itself waits for the backward pass."""
    made = layers("strided", torch.float32)
    x = torch.randn(2, 8, 40, 40).to(memory_format=torch.channels_last).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm_convolution(x, made[0], made[2])
    assert [t.shape for t in kept if t.numel() > 1000] == [x.shape]


def test_spectra_only_for_full_convolutions_to_few_channels():
    for name, kind in (("strided", Direct), ("stride 1", Direct), ("few channels, by spectra", Spectral)):
        conv = layers(name, torch.float32)[2]
        assert type(convolution(conv, conv.weight, conv.bias, (8, 9, 9))) is kind


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_result_stays_in_the_layout_of_the_next_step(name):
    made, x = layers(name, torch.float32), torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
    assert norm_convolution(x, made[0], made[2]).is_contiguous(memory_format=torch.channels_last)
