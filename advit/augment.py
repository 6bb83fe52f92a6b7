"""Small seeded changes of training images: moves with reflected edges, and brightness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from advit.precision import to_device


def translate(images: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """Move the content of each image ``(batch, channel, H, H)`` by (down, right) pixels, edges reflected.

    Test: tests/test_augment.py
    """
    reach = max(abs(v) for pair in offsets for v in pair)
    if reach == 0:
        return images
    h, w = images.shape[-2:]
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    corners = [(reach - dy, reach - dx) for dy, dx in offsets]
    return torch.stack([p[:, y : y + h, x : x + w] for p, (y, x) in zip(padded, corners, strict=True)])


def augment(images: Tensor, shift: int, brightness: float, generator: torch.Generator) -> Tensor:
    """Random move by up to ``shift`` pixels and random gain 1 +- ``brightness`` per image.

    ``generator`` lives on the CPU, so that every device draws the same numbers. Test: tests/test_augment.py
    """
    n = len(images)
    offsets = torch.randint(-shift, shift + 1, (n, 2), generator=generator).tolist()
    gain = 1 + brightness * (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1)
    return (translate(images, [(dy, dx) for dy, dx in offsets]) * to_device(gain, images.device)).clamp(0, 1)
