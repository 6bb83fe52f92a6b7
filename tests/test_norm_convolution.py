"""norm_convolution.py against PyTorch's layers one after the other."""

import copy

import pytest
import torch
from torch import nn

from advit.fft_convolution import Spectral
from advit.norm_convolution import Direct, centred_products, convolution, moments, norm_convolution

CONVOLUTIONS = {
    "strided": (5, dict(kernel_size=5, stride=3, padding=1)),
    "stride 1": (6, dict(kernel_size=4)),
    "few channels, by spectra": (3, dict(kernel_size=(5, 2))),
}


def of_batch(x: torch.Tensor, norm: nn.BatchNorm2d, conv: nn.ConvTranspose2d) -> torch.Tensor:
    """norm_convolution of a batch, as a batch."""
    return torch.stack(norm_convolution(x.unbind(), norm, conv))


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
    """float64; 3 images of 41 x 50 = 2050 pixels: two whole blocks of pixels and a part of one."""
    theirs = layers(name, torch.float64).train(training)
    ours = copy.deepcopy(theirs)
    g = torch.Generator().manual_seed(1)
    x = 3 + 2 * torch.randn(3, 8, 41, 50, generator=g, dtype=torch.float64)
    a = x.to(memory_format=torch.channels_last).requires_grad_()
    b = x.clone().requires_grad_()
    for _ in range(2):  # the running statistics of two steps
        found, expected = of_batch(a, ours[0], ours[2]), theirs(b)
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


@pytest.mark.parametrize("mean", [3, 30, 100])
def test_statistics_in_float32_are_near_those_of_float64(mean):
    """Two million pixels far from zero, whole blocks of them."""
    g = torch.Generator().manual_seed(0)
    x = (mean + torch.randn(8, 4, 512, 512, generator=g)).to(memory_format=torch.channels_last)
    found, exact = moments(x.unbind()), x.double()
    assert torch.allclose(found[0], exact.mean(dim=(0, 2, 3)), rtol=1e-6)
    assert torch.allclose(found[1], exact.var(dim=(0, 2, 3), correction=0), rtol=1e-6)
    y = torch.randn(x.shape, generator=g).to(memory_format=torch.channels_last)
    product = (y.double() * (exact - found[0][:, None, None])).sum(dim=(0, 2, 3))
    assert torch.allclose(centred_products(y.unbind(), x.unbind(), found[0]), product, rtol=1e-3, atol=0.05)


def test_activations_in_float32_are_near_those_of_float64():
    """Mean and sd 3: within 5e-6, in a batch of two million pixels."""
    made = layers("stride 1", torch.float32)
    g = torch.Generator().manual_seed(2)
    x = (3 + torch.randn(8, 8, 300, 300, generator=g)).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(made).double()(x.double())
    assert (of_batch(x, made[0], made[2]) - exact).abs().max() < 5e-6 * exact.abs().max()


def test_without_a_bias_and_of_frozen_parameters():
    conv, norm = nn.ConvTranspose2d(4, 5, 3, bias=False).double(), nn.BatchNorm2d(4).double().requires_grad_(False)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    theirs = conv(torch.relu(copy.deepcopy(norm)(x)))
    parts = x, conv.weight
    found, expected = (torch.autograd.grad(y.sum(), parts) for y in (of_batch(x, norm, conv), theirs))
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, expected, strict=True))


def test_an_earlier_evaluation_survives_a_training_step():
    made = layers("strided", torch.float64)
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64).requires_grad_()
    first = of_batch(x, made[0].eval(), made[2])
    of_batch(x, made[0].train(), made[2])
    first.sum().backward()
    assert x.grad.isfinite().all()


def test_other_convolutions_are_refused():
    with pytest.raises(ValueError, match="no groups, dilation or output padding"):
        of_batch(torch.randn(1, 4, 5, 5), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 3, dilation=2))


def test_only_the_input_is_kept_for_the_gradient():
    """No tensor of the size of an image but x itself waits for the backward pass."""
    made = layers("strided", torch.float32)
    x = torch.randn(2, 8, 40, 40).to(memory_format=torch.channels_last).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        norm_convolution(x.unbind(), made[0], made[2])
    assert [t.shape for t in kept if t.numel() > 1000] == [x[0].shape] * 2


def test_spectra_only_for_full_convolutions_to_few_channels():
    for name, kind in (("strided", Direct), ("stride 1", Direct), ("few channels, by spectra", Spectral)):
        conv = layers(name, torch.float32)[2]
        assert type(convolution(conv, conv.weight, conv.bias, (8, 9, 9))) is kind


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_result_stays_in_the_layout_of_the_next_step(name):
    made, x = layers(name, torch.float32), torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last)
    by_spectra = "spectra" in name  # the picture: the losses want whole channels
    layout = torch.contiguous_format if by_spectra else torch.channels_last
    assert all(y[None].is_contiguous(memory_format=layout) for y in norm_convolution(x.unbind(), made[0], made[2]))
