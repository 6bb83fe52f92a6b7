"""BatchNorm, ReLU and a transposed convolution as one step that keeps its input and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from advit.fft_convolution import Spectral

BLOCK = 1024  # pixels that add up in the precision of the images; the sums of blocks do in float64
SPECTRAL_CHANNELS = 4  # at most so many out: they fill the vectors of the direct computation badly


def rows_of(image: Tensor) -> Tensor:
    """View of channels-last ``(C, H, W)`` as ``(H, W * C)``: long rows are what elementwise functions are fast at."""
    return image.permute(1, 2, 0).flatten(1)


def image_of(rows: Tensor, channels: int) -> Tensor:
    """:func:`rows_of` back."""
    return rows.unflatten(1, (-1, channels)).permute(2, 0, 1)


def along_rows(x: Tensor, *values: Tensor) -> list[Tensor]:
    """Numbers per channel ``(C,)``, repeated along the :func:`rows_of` an image of ``x``, in its precision."""
    return [value.to(x.dtype).repeat(x.shape[-1]) for value in values]


class Direct:
    """A transposed convolution of one image ``(I, h, w)``, and its gradients."""

    def __init__(self, conv: nn.ConvTranspose2d, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias, self.stride, self.padding = weight, bias, conv.stride, conv.padding
        self.d_weight = torch.zeros_like(weight)

    def convolve(self, image: Tensor) -> Tensor:
        """y ``(O, h', w')`` of an image."""
        y = F.conv_transpose2d(image[None], self.weight, None, self.stride, self.padding)
        y = y.contiguous(memory_format=torch.channels_last)[0]
        if self.bias is not None:  # added here: the library takes nearly twice the time with one
            rows_of(y).add_(*along_rows(y, self.bias))
        return y

    def gradients(self, image: Tensor, gradient: Tensor) -> Tensor:
        """dx of an image; its dw is added to ``d_weight``."""
        d_image, d_weight, _ = torch.ops.aten.convolution_backward(
            gradient[None], image[None], self.weight, None, self.stride, self.padding, (1, 1), True, (0, 0), 1,
            (True, True, False),
        )  # fmt: skip
        self.d_weight += d_weight
        return d_image[0]


def convolution(
    conv: nn.ConvTranspose2d, weight: Tensor, bias: Tensor | None, shape: torch.Size
) -> Direct | Spectral:
    """The faster computation of ``conv`` with these parameters for images ``(C, H, W)`` of this shape.

    Raises:
        ValueError: ``conv`` has groups, a dilation or an output padding.
    """
    if (conv.groups, conv.dilation, conv.output_padding) != (1, (1, 1), (0, 0)):
        raise ValueError(f"no groups, dilation or output padding are computed here: {conv}")
    full = conv.stride == (1, 1) and conv.padding == (0, 0) and weight.shape[1] <= SPECTRAL_CHANNELS
    return Spectral(weight, bias, shape) if full else Direct(conv, weight, bias)


def blocks_of(x: Tensor) -> list[Tensor]:
    """Channels-last ``(batch, C, H, W)`` as blocks of pixels ``(blocks, BLOCK, C)``, and what is left over."""
    pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
    whole = len(pixels) // BLOCK * BLOCK
    return [pixels[:whole].unflatten(0, (-1, BLOCK)), pixels[None, whole:]]


def channel_sums(x: Tensor) -> Tensor:
    """Sum of every channel, ``(C,)``, float64."""
    return sum(b.sum(dim=1).double().sum(dim=0) for b in blocks_of(x))


def channel_products(x: Tensor, y: Tensor) -> Tensor:
    """Sum of x y of every channel, ``(C,)``, float64.

    The diagonal of a matrix product of every block, which is faster than a product and a sum.
    """
    pairs = zip(blocks_of(x), blocks_of(y), strict=True)
    return sum((a.transpose(1, 2) @ b).diagonal(dim1=1, dim2=2).double().sum(dim=0) for a, b in pairs)


def centred_products(x: Tensor, y: Tensor, mean: Tensor) -> Tensor:
    """Sum of x (y - mean) of every channel, float64, an image at a time: nothing cancels, however far y is from 0."""
    mean = mean.to(y.dtype)[:, None, None]
    return sum(channel_products(a[None], (b - mean)[None]) for a, b in zip(x, y, strict=True))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (of all pixels, not of a sample) of every channel, float64."""
    pixels = x.numel() // x.shape[1]
    mean = channel_sums(x) / pixels
    off = mean - mean.to(x.dtype).double()  # what rounding the centre leaves
    square = sum(channel_products(d, d) for d in ((image - mean.to(x.dtype)[:, None, None])[None] for image in x))
    return mean, square / pixels - off.square()


def activation(image: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """relu(scale x + shift) of an image; scale and shift of the length of its :func:`rows_of`."""
    return image_of(torch.addcmul(shift, rows_of(image), scale).relu_(), len(image))


class _NormConvTranspose(torch.autograd.Function):
    """w * relu(gamma x' + beta) + bias, x' = (x - mean) rstd, of channels-last images, one image at a time.

    With d = [relu > 0] dy the gradient before the ReLU, and P pixels of a channel:
    d beta = sum d, d gamma = sum d x', and, where mean and rstd are those of x itself,
    dx = gamma rstd (d - (d beta + x' d gamma) / P); else dx = gamma rstd d.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, rstd: Tensor,
        conv: nn.ConvTranspose2d, of_batch: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, gamma, beta, weight, mean, rstd)
        ctx.conv, ctx.of_batch = conv, of_batch
        affine = along_rows(x, gamma * rstd, beta - mean * gamma * rstd)
        one, out = convolution(conv, weight, bias, x.shape[1:]), None
        for i, image in enumerate(x):
            y = one.convolve(activation(image, *affine))
            if out is None:
                out = torch.empty(len(x), *y.shape, dtype=y.dtype, memory_format=torch.channels_last)
            out[i] = y
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        x, gamma, beta, weight, mean, rstd = ctx.saved_tensors
        affine = along_rows(x, gamma * rstd, beta - mean * gamma * rstd)
        one, d_x = convolution(ctx.conv, weight, None, x.shape[1:]), torch.empty_like(x)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        for image, g, d in zip(x, gradient, d_x, strict=True):
            y = activation(image, *affine)
            torch.ops.aten.threshold_backward.grad_input(one.gradients(y, g), y, 0, grad_input=d)
        d_beta = channel_sums(d_x)
        d_gamma = centred_products(d_x, x, mean) * rstd
        scale, pixels = gamma * rstd, x.numel() // x.shape[1]
        slope = -scale * rstd * d_gamma * (ctx.of_batch / pixels)
        shift = -scale * d_beta * (ctx.of_batch / pixels) - slope * mean
        scale, slope, shift = along_rows(x, scale, slope, shift)
        for image, d in zip(x, d_x, strict=True):
            rows = rows_of(d)
            torch.addcmul(shift, rows, scale, out=rows).addcmul_(rows_of(image), slope)
        d_gamma, d_beta = d_gamma.to(x.dtype), d_beta.to(x.dtype)
        d_bias = channel_sums(gradient).to(x.dtype) if ctx.needs_input_grad[4] else None
        return d_x, d_gamma, d_beta, one.d_weight, d_bias, None, None, None, None


def norm_convolution(x: Tensor, norm: nn.BatchNorm2d, conv: nn.ConvTranspose2d) -> Tensor:
    """``conv(relu(norm(x)))`` of ``(batch, C, H, W)`` on a CPU, float32 or float64.

    Keeps x for the gradient and nothing else; what lies between is made anew. The statistics are those of float64
    sums: in this layout PyTorch's own lose digits, up to 2e-3 of an activation at 512 px, where 2e-6 is left here.
    Updates the running statistics in training mode as ``norm`` does. Once differentiable.

    Args:
        norm: affine, with running statistics and a momentum, as ``nn.BatchNorm2d`` has by default.

    Raises:
        ValueError: ``conv`` has groups, a dilation or an output padding.

    Test: tests/test_norm_convolution.py
    """
    x = x.contiguous(memory_format=torch.channels_last)
    mean, variance = (z.to(torch.float64, copy=True) for z in (norm.running_mean, norm.running_var))
    if norm.training:
        pixels = x.numel() // x.shape[1]
        with torch.no_grad():
            mean, variance = moments(x)
            norm.running_mean.lerp_(mean.to(x.dtype), norm.momentum)
            norm.running_var.lerp_((variance * (pixels / max(1, pixels - 1))).to(x.dtype), norm.momentum)
            norm.num_batches_tracked += 1
    rstd = (variance + norm.eps).rsqrt()
    return _NormConvTranspose.apply(
        x, norm.weight, norm.bias, conv.weight, conv.bias, mean, rstd, conv, norm.training
    )
