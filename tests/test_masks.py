"""masks.py: sets that hide every patch once, real squares, the wanted shares, nothing but the generator."""

import numpy as np
import pytest
import torch

from advit.config import ADViTConfig, with_options
from advit.masks import block_groups, random_masks, scoring_masks


def config(grid=7, **options):
    return with_options(ADViTConfig(), dict(image_size=8 * grid, patch=8, target_dim=6, **options))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def runs(chosen, grid):
    """Lengths of the runs of consecutive numbers modulo ``grid`` in a set."""
    starts = [i for i in chosen if (i - 1) % grid not in chosen]
    lengths = [next(n for n in range(1, grid + 1) if (i + n) % grid not in chosen or n == grid) for i in starts]
    return lengths or [grid]


@pytest.mark.parametrize("share, groups", [(0.5, 2), (0.25, 4), (0.3, 3)])
def test_masks_hide_every_patch_exactly_once(share, groups):
    (masks,) = scoring_masks(config(mask_share=share), generator())
    assert masks.shape == (groups, 49) and masks.dtype == torch.bool
    assert (masks.sum(dim=0) == 1).all()
    assert masks.sum(dim=1).max() - masks.sum(dim=1).min() <= 1


@pytest.mark.parametrize("grid", [4, 5, 7])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_every_set_of_every_side_hides_every_patch_exactly_once(grid, share):
    c = config(grid, mask_share=share, mask_blocks="1,2,3,all", mask_draws=2)
    sets = scoring_masks(c, generator())
    assert len(sets) == 2 * 4
    for masks, side in zip(sets, [1, 2, 3, grid] * 2, strict=True):
        squares = (-(-grid // side)) ** 2
        assert len(masks) == min(max(2, round(1 / share)), squares)
        assert (masks.sum(dim=0) == 1).all() and masks.any(dim=1).all()


def test_all_hides_everything_in_one_mask():
    c = config(mask_blocks="1,all")
    some, masks = scoring_masks(c, generator())
    assert masks.shape == (1, 49) and masks.all() and not some.all(dim=1).any()
    drawn = random_masks(c, 40, generator())
    assert drawn.shape == (40, 49) and set(drawn.sum(dim=1).tolist()) == {24, 49}
    alone = config(1, mask_blocks="all")  # a single patch: there is nothing else to hide
    assert scoring_masks(alone, generator())[0].tolist() == random_masks(alone, 1, generator()).tolist() == [[True]]


@pytest.mark.parametrize("grid, side", [(6, 1), (6, 2), (6, 3), (6, 6)])
def test_squares_are_squares_that_go_on_at_the_other_edge(grid, side):
    for seed in range(10):
        rank = block_groups(grid, side, generator(seed)).view(grid, grid).numpy()
        assert sorted(np.unique(rank)) == list(range((grid // side) ** 2))
        for k in range((grid // side) ** 2):
            rows, columns = (set(axis.tolist()) for axis in np.nonzero(rank == k))
            assert (rank == k).sum() == side * side
            assert runs(rows, grid) == runs(columns, grid) == [side]


@pytest.mark.parametrize("grid, side", [(5, 2), (7, 3), (7, 4), (8, 5)])
def test_where_the_side_does_not_divide_the_grid_the_last_squares_are_cut(grid, side):
    count, rest = -(-grid // side), grid % side
    for seed in range(10):
        rank = block_groups(grid, side, generator(seed)).view(grid, grid).numpy()
        assert sorted(np.unique(rank)) == list(range(count * count))
        areas = []
        for k in range(count * count):
            rows, columns = (set(axis.tolist()) for axis in np.nonzero(rank == k))
            (height,), (width,) = runs(rows, grid), runs(columns, grid)
            assert {height, width} <= {side, rest} and (rank == k).sum() == height * width
            areas.append(height * width)
        full = grid // side
        assert sorted(areas) == sorted([side * side] * full**2 + [side * rest] * (2 * full) + [rest * rest])


def test_squares_start_at_every_corner_and_ranks_are_shuffled():
    ranks = [block_groups(6, 3, generator(seed)).view(6, 6) for seed in range(80)]
    lines = [(r[:, 0], r[0]) for r in ranks]
    corners = {tuple(int((v != v.roll(1)).nonzero()[0]) for v in pair) for pair in lines}
    assert corners == {(i, j) for i in range(3) for j in range(3)}
    assert {int(r[0, 0]) for r in ranks} == {0, 1, 2, 3}


def test_random_masks_hide_the_wanted_share():
    masks = random_masks(config(4, mask_share=0.25), 2000, generator())
    assert (masks.sum(dim=1) == 4).all()
    assert masks.float().mean(dim=0).std() < 0.02  # no patch is favoured
    assert (random_masks(config(4, mask_share=0.001), 3, generator()).sum(dim=1) == 1).all()


def test_random_masks_take_every_side_alike_and_whole_squares():
    masks = random_masks(config(6, mask_share=0.25, mask_blocks="1,3,all"), 1200, generator())
    hidden = masks.sum(dim=1)
    assert set(hidden.tolist()) == {9, 36}  # 9 of 36 patches, one of 4 squares of 9, everything
    whole = hidden == 36
    square = torch.tensor([
        all(runs(set(axis.tolist()), 6) == [3] for axis in m.view(6, 6).nonzero(as_tuple=True)) for m in masks
    ])  # fmt: skip
    for chosen in (whole, square & ~whole, ~square & ~whole):
        assert chosen.float().mean().item() == pytest.approx(1 / 3, abs=0.05)
    assert masks[square & ~whole].float().mean(dim=0).std() < 0.04  # no place is favoured


def test_the_generator_alone_decides():
    c = config(5, mask_blocks="1,2,all", mask_share=0.3)
    torch.manual_seed(3)
    one, many = random_masks(c, 6, generator(4)), scoring_masks(c, generator(4))
    torch.manual_seed(9)
    assert torch.equal(one, random_masks(c, 6, generator(4)))
    assert all(torch.equal(a, b) for a, b in zip(many, scoring_masks(c, generator(4)), strict=True))
    assert not torch.equal(one, random_masks(c, 6, generator(5)))
    assert not torch.equal(many[0], scoring_masks(c, generator(5))[0])
    drawn = generator(4)
    first, second = scoring_masks(c, drawn), scoring_masks(c, drawn)
    assert not torch.equal(first[0], second[0])  # every draw is a new one
