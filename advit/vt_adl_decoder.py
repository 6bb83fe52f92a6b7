"""The public VT-ADL decoder: one capsule of 512 numbers to an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advit.norm_convolution import norm_convolution
from advit.precision import full_precision

CODE_CHANNELS, CODE_SIDE = 8, 8
CODE = CODE_CHANNELS * CODE_SIDE**2  # 512, the length of the capsule
NATIVE_SIZE = 512  # what the layers make of (8, 8, 8)
# (channels out, kernel, stride, padding); None: the image's. Side 8 -> 15 -> 49 -> 245 -> 497 -> 502 -> 512
UPSAMPLING = ((16, 3, 2, 1), (32, 9, 3, 1), (32, 7, 5, 1), (16, 9, 2, 0), (8, 6, 1, 0), (None, 11, 1, 0))


class PublicDecoder(nn.Module):
    """Capsule to image: six transposed convolutions, BatchNorm and ReLU between them, tanh at the end.

    ``(batch, 512)``, read as ``(batch, 8, 8, 8)``, to ``(batch, channels, H, H)`` in (-1, 1); images are in
    [0, 1], so half of that range is never a target.

    Args:
        image_size: H. channels: of the image.

    Source: the public code, whose layers give 512 x 512 and nothing else.
    Differs: for another H that picture is resized (bilinear, antialiased) to H x H, so that the preset also
    runs on small images, at the full cost of 512 x 512.
    Test: tests/test_eq_vt_adl.py
    """

    def __init__(self, *, image_size: int = NATIVE_SIZE, channels: int = 3) -> None:
        super().__init__()
        self.image_size = image_size
        layers: list[nn.Module] = []
        width = CODE_CHANNELS
        for out, kernel, stride, padding in UPSAMPLING:
            layers.append(nn.ConvTranspose2d(width, out or channels, kernel, stride, padding))
            if out:
                layers += [nn.BatchNorm2d(out), nn.ReLU()]
                width = out
        self.layers = nn.Sequential(*layers, nn.Tanh()).to(memory_format=torch.channels_last)  # a quarter less time

    def forward(self, code: Tensor) -> Tensor:
        code = code.unflatten(1, (CODE_CHANNELS, CODE_SIDE, CODE_SIDE)).to(memory_format=torch.channels_last)
        image = full_precision(self.picture(code))  # resizing and the losses need it under mixed precision too
        if self.image_size == NATIVE_SIZE:
            return image
        size = (self.image_size, self.image_size)
        return F.interpolate(image, size=size, mode="bilinear", antialias=True)

    def picture(self, code: Tensor) -> Tensor:
        """``layers`` of a channels-last code; on a CPU in less time and half the memory, equal to rounding.

        There it is in full precision under autocast too: bfloat16 takes longer, and its statistics lose three digits.
        """
        exact = self.layers[0].weight.dtype in (torch.float32, torch.float64)
        if code.device.type != "cpu" or not exact or not len(code):
            return self.layers(code)
        with torch.autocast("cpu", enabled=False):
            images = self.layers[0](full_precision(code)).unbind()
            for norm, conv in zip(self.layers[1:-1:3], self.layers[3:-1:3], strict=True):
                images = norm_convolution(images, norm, conv)
            return self.layers[-1](torch.stack(images))
