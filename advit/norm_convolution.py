"""BatchNorm, ReLU and a transposed convolution as one step that keeps its input and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from advit.fft_convolution import Spectral

BLOCK = 1024  # pixels that add up in the precision of the images; the sums of blocks do in float64
TOGETHER = 32  # blocks: so few stay in the cache
SPECTRAL_CHANNELS = 4  # at most so many out: they fill the vectors of the direct computation badly


def rows_of(image: Tensor) -> Tensor:
    """View of channels-last ``(C, H, W)`` as ``(H, W * C)``: long rows are what elementwise functions are fast at."""
    return image.permute(1, 2, 0).flatten(1)


def image_of(rows: Tensor, channels: int) -> Tensor:
    """:func:`rows_of` back."""
    return rows.unflatten(1, (-1, channels)).permute(2, 0, 1)


def along_rows(image: Tensor, *values: Tensor) -> list[Tensor]:
    """Numbers per channel ``(C,)``, repeated along the :func:`rows_of` an image, in its precision."""
    return [value.to(image.dtype).repeat(image.shape[-1]) for value in values]


def channels_last(image: Tensor) -> Tensor:
    """An image ``(C, H, W)`` whose channels lie side by side, copied where they do not."""
    return image.unsqueeze(0).contiguous(memory_format=torch.channels_last).squeeze(0)  # whose gradient is a view, too


class Direct:
    """A transposed convolution of one image ``(I, h, w)``, and its gradients."""

    def __init__(self, conv: nn.ConvTranspose2d, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias, self.stride, self.padding = weight, bias, conv.stride, conv.padding
        self.d_weight: Tensor | None = None

    def convolve(self, image: Tensor) -> Tensor:
        """y ``(O, h', w')`` of an image."""
        y = channels_last(F.conv_transpose2d(image[None], self.weight, None, self.stride, self.padding)[0])
        if self.bias is not None:  # added here: the library takes nearly twice the time with one
            rows_of(y).add_(*along_rows(y, self.bias))
        return y

    def gradients(self, image: Tensor, gradient: Tensor) -> Tensor:
        """dx of an image; its dw is added to ``d_weight``."""
        d_image, d_weight, _ = torch.ops.aten.convolution_backward(
            channels_last(gradient)[None], image[None], self.weight, None, self.stride, self.padding, (1, 1), True,
            (0, 0), 1, (True, True, False),
        )  # fmt: skip
        self.d_weight = d_weight if self.d_weight is None else self.d_weight.add_(d_weight)
        return channels_last(d_image[0])


def convolution(conv: nn.ConvTranspose2d, weight: Tensor, bias: Tensor | None, shape: torch.Size) -> Direct | Spectral:
    """The faster computation of ``conv`` with these parameters for images ``(C, H, W)`` of this shape.

    Raises:
        ValueError: ``conv`` has groups, a dilation or an output padding.
    """
    if (conv.groups, conv.dilation, conv.output_padding) != (1, (1, 1), (0, 0)):
        raise ValueError(f"no groups, dilation or output padding are computed here: {conv}")
    full = conv.stride == (1, 1) and conv.padding == (0, 0) and weight.shape[1] <= SPECTRAL_CHANNELS
    return Spectral(weight, bias, shape) if full else Direct(conv, weight, bias)


def blocks_of(image: Tensor) -> Iterator[Tensor]:
    """``(C, H, W)`` as blocks of pixels ``(blocks, BLOCK, C)``, TOGETHER at a time, and what is left over."""
    pixels = image.permute(1, 2, 0).flatten(0, 1)
    whole = len(pixels) // BLOCK * BLOCK
    yield from pixels[:whole].unflatten(0, (-1, BLOCK)).split(TOGETHER)
    yield pixels[None, whole:]


def channel_sums(images: Sequence[Tensor]) -> Tensor:
    """Sum of every channel, ``(C,)``, float64."""
    return sum(block.sum(dim=1).double().sum(dim=0) for image in images for block in blocks_of(image))


def channel_products(x: Tensor, y: Tensor) -> Tensor:
    """Sum of x y of every channel of two of :func:`blocks_of`, ``(C,)``, float64.

    The diagonal of a matrix product of every block, which is faster than a product and a sum.
    """
    return (x.transpose(1, 2) @ y).diagonal(dim1=1, dim2=2).double().sum(dim=0)


def centred(blocks: Tensor, mean: Tensor) -> Tensor:
    """blocks - mean of every channel, in the blocks' precision."""
    return (blocks.flatten(1) - mean.to(blocks.dtype).repeat(blocks.shape[1])).view_as(blocks)


def centred_products(x: Sequence[Tensor], y: Sequence[Tensor], mean: Tensor) -> Tensor:
    """Sum of x (y - mean) of every channel, float64: nothing cancels, however far y is from 0."""
    pairs = ((a, b) for images in zip(x, y, strict=True) for a, b in zip(*map(blocks_of, images), strict=True))
    return sum(channel_products(a, centred(b, mean)) for a, b in pairs)


def moments(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance (of all pixels, not of a sample) of every channel, float64."""
    pixels = len(images) * images[0][0].numel()
    mean = channel_sums(images) / pixels
    off = mean - mean.to(images[0].dtype).double()  # what rounding the centre leaves
    deviations = (centred(block, mean) for image in images for block in blocks_of(image))
    return mean, sum(channel_products(d, d) for d in deviations) / pixels - off.square()


def activation(image: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """relu(scale x + shift) of an image; ``out`` has the shape of its :func:`rows_of`, scale and shift their length."""
    return image_of(torch.addcmul(shift, rows_of(image), scale, out=out).relu_(), len(image))


class _NormConvTranspose(torch.autograd.Function):
    """w * relu(gamma x' + beta) + bias, x' = (x - mean) rstd, of channels-last images, one image at a time.

    With d = [relu > 0] dy the gradient before the ReLU, and P pixels of a channel:
    d beta = sum d, d gamma = sum d x', and, where mean and rstd are those of x itself,
    dx = gamma rstd (d - (d beta + x' d gamma) / P); else dx = gamma rstd d.
    """

    @staticmethod
    def forward(
        ctx, conv: nn.ConvTranspose2d, of_batch: bool, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor,
        weight: Tensor, bias: Tensor | None, *images: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.save_for_backward(mean, rstd, gamma, beta, weight, *images)
        ctx.conv, ctx.of_batch = conv, of_batch
        affine = along_rows(images[0], gamma * rstd, beta - mean * gamma * rstd)
        one = convolution(conv, weight, bias, images[0].shape)
        room = torch.empty_like(rows_of(images[0]))
        return tuple(one.convolve(activation(image, *affine, room)) for image in images)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):
        mean, rstd, gamma, beta, weight, *images = ctx.saved_tensors
        affine = along_rows(images[0], gamma * rstd, beta - mean * gamma * rstd)
        one, found = convolution(ctx.conv, weight, None, images[0].shape), []
        room = torch.empty_like(rows_of(images[0]))
        for image, gradient in zip(images, gradients, strict=True):
            y = activation(image, *affine, room)
            d = one.gradients(y, gradient)
            found.append(torch.ops.aten.threshold_backward.grad_input(d, y, 0, grad_input=d))
        d_beta, d_gamma = channel_sums(found), centred_products(found, images, mean) * rstd
        scale, share = gamma * rstd, ctx.of_batch / (len(images) * images[0][0].numel())
        slope = -scale * rstd * d_gamma * share
        rows = along_rows(images[0], scale, slope, -scale * d_beta * share - slope * mean)
        for image, d in zip(images, found, strict=True):
            torch.addcmul(rows[2], rows_of(d), rows[0], out=rows_of(d)).addcmul_(rows_of(image), rows[1])
        d_bias = channel_sums(gradients) if ctx.needs_input_grad[7] else None
        parameters = (None if d is None else d.to(weight.dtype) for d in (d_gamma, d_beta, one.d_weight, d_bias))
        return None, None, None, None, *parameters, *found


def norm_convolution(images: Sequence[Tensor], norm: nn.BatchNorm2d, conv: nn.ConvTranspose2d) -> tuple[Tensor, ...]:
    """``conv(relu(norm(x)))`` of the images ``(C, H, W)`` of a batch on a CPU, float32 or float64.

    Keeps x for the gradient and nothing else; what lies between is made anew. The statistics are those of float64
    sums: in this layout PyTorch's own lose digits, up to 2e-3 of an activation at 512 px, where 2e-6 is left here.
    An image is a tensor of its own, of a few MB: such memory is used again, that of a whole batch is given back to the
    system after every use, and taking it again costs more than the arithmetic on it.
    Updates the running statistics in training mode as ``norm`` does. Once differentiable.

    Args:
        norm: affine, with running statistics and a momentum, as ``nn.BatchNorm2d`` has by default.

    Raises:
        ValueError: ``conv`` has groups, a dilation or an output padding.

    Test: tests/test_norm_convolution.py
    """
    images = [channels_last(image) for image in images]
    mean, variance = (z.to(torch.float64, copy=True) for z in (norm.running_mean, norm.running_var))
    if norm.training:
        pixels, dtype = len(images) * images[0][0].numel(), norm.running_mean.dtype
        with torch.no_grad():
            mean, variance = moments(images)
            norm.running_mean.lerp_(mean.to(dtype), norm.momentum)
            norm.running_var.lerp_((variance * (pixels / max(1, pixels - 1))).to(dtype), norm.momentum)
            norm.num_batches_tracked += 1
    rstd = (variance + norm.eps).rsqrt()
    return _NormConvTranspose.apply(
        conv, norm.training, mean, rstd, norm.weight, norm.bias, conv.weight, conv.bias, *images
    )
