"""Reconstruction vector and decoder: tokens to one vector, one vector to an image in [0, 1]."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advit.precision import full_precision


def squash(v: Tensor) -> Tensor:
    """squash(v) = |v| v / (1 + |v|^2) over the last axis: keeps the direction, norm in [0, 1), 0 at 0.

    Differs: the public code divides by |v| and gives NaN at 0. Source: Sabour et al. 2017, eq. 1.
    Test: tests/test_eq_decoder.py
    """
    squared = v.square().sum(dim=-1, keepdim=True)
    safe = torch.where(squared > 0, squared, torch.ones_like(squared))
    norm = torch.where(squared > 0, safe.sqrt(), torch.zeros_like(squared))
    return v * norm / (1 + squared)


class ReconstructionVector(nn.Module):
    """One linear map of all tokens to one vector, then :func:`squash`.

    The public code routes N * 64 capsules to one output capsule. Its routing softmax runs over that single
    output, so every coefficient is 1 and the routing IS this linear map.

    Args:
        tokens: N. dim: d. out_dim: length of the vector.

    Test: tests/test_eq_decoder.py
    """

    def __init__(self, *, tokens: int, dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(tokens * dim, out_dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """``(batch, N, d)`` to ``(batch, out_dim)`` with norm below 1."""
        return squash(full_precision(self.linear(features.flatten(1))))


class Decoder(nn.Module):
    """Vector to image: an 8 x 8 seed, then doublings (bilinear, 3 x 3 convolution, BatchNorm, ReLU), sigmoid.

    The last doubling is a convolution to four times the channels, woven into pixels, at a quarter of the cost.
    Works for every image size: each stage has its exact share of the final size.

    Differs: VT-ADL's decoder has transposed convolutions of fixed strides that give 512 px and nothing else,
    and ends in Tanh although images lie in [0, 1].
    Test: tests/test_eq_decoder.py
    """

    def __init__(self, *, in_dim: int, image_size: int, channels: int, width: int) -> None:
        super().__init__()
        sizes = [(image_size + 1) // 2]
        while sizes[0] > 15:
            sizes.insert(0, (sizes[0] + 1) // 2)
        self.image_size, self.sizes = image_size, sizes
        widths = [max(16, width >> max(0, i - 1)) for i in range(len(sizes))]
        self.seed = nn.Linear(in_dim, widths[0] * sizes[0] ** 2)
        self.gain = in_dim**0.5  # a squashed vector has norm below 1: entries of about 1 train several times faster
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.to_image = nn.Conv2d(widths[-1], 4 * channels, 3, padding=1)

    def forward(self, vector: Tensor) -> Tensor:
        """``(batch, in_dim)`` to ``(batch, channel, H, H)`` in [0, 1]."""
        x = self.seed(vector * self.gain).unflatten(1, (-1, self.sizes[0], self.sizes[0]))
        for size, stage in zip(self.sizes[1:], self.stages, strict=True):
            x = stage(F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False))
        image = F.pixel_shuffle(full_precision(self.to_image(x)), 2)
        return torch.sigmoid(image[..., : self.image_size, : self.image_size])
