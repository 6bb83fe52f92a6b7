"""Which patches are hidden from the encoder while their density is predicted from the others."""

from __future__ import annotations

import torch
from torch import Tensor

from advit.config import ADViTConfig


def block_groups(grid: int, side: int, generator: torch.Generator) -> Tensor:
    """A random rank for each square of ``side`` x ``side`` patches, the same for its patches: ``(N,)`` int64.

    The squares are laid from a random corner; where they reach over the edge they go on at the other.
    """
    count = -(-grid // side)
    rank = torch.randperm(count * count, generator=generator).view(count, count)
    squares = rank.repeat_interleave(side, 0).repeat_interleave(side, 1)[:grid, :grid]
    corner = torch.randint(side, (2,), generator=generator).tolist()
    return squares.roll(corner, (0, 1)).flatten()


def random_masks(config: ADViTConfig, batch: int, generator: torch.Generator) -> Tensor:
    """One random mask per image ``(batch, N)``, True where a patch is hidden.

    An image's mask hides ``mask_share`` of all squares of one of the sides in ``mask_blocks``; "all" hides everything.

    Test: tests/test_masks.py
    """
    sides = config.block_sides
    masks = []
    for _ in range(batch):
        side = sides[int(torch.randint(len(sides), (1,), generator=generator))]
        rank = block_groups(config.grid, side, generator)
        masks.append(rank < max(1, round(config.mask_share * int(rank.max() + 1))))
    return torch.stack(masks)


def scoring_masks(config: ADViTConfig, generator: torch.Generator) -> list[Tensor]:
    """Sets of masks ``(passes, N)``, ``mask_draws`` sets for every side of a square.

    The masks of a set are complementary: together they hide every patch once. So a density is the
    mean over what is left when little around a patch is hidden, when much is, and with "all", when all is: then it is
    what the place alone lets expect.

    Test: tests/test_masks.py
    """
    masks = []
    for _ in range(config.mask_draws):
        for side in config.block_sides:
            rank = block_groups(config.grid, side, generator)
            groups = min(max(2, round(1 / config.mask_share)), int(rank.max()) + 1)
            masks.append(torch.stack([rank % groups == g for g in range(groups)]))
    return masks
