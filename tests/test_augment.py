"""augment.py: moves, reflection and seeds."""

import torch

from advit.augment import augment, translate


def test_translate_moves_content_down_and_right():
    x = torch.arange(2 * 1 * 4 * 4, dtype=torch.float32).reshape(2, 1, 4, 4)
    moved = translate(x, [(1, 0), (0, -2)])
    assert torch.equal(moved[0, 0, 1:], x[0, 0, :-1])
    assert torch.equal(moved[0, 0, 0], x[0, 0, 1])  # the row that came in is a reflection
    assert torch.equal(moved[1, 0, :, :2], x[1, 0, :, 2:])


def test_zero_moves_change_nothing():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(translate(x, [(0, 0)] * 2), x)
    assert torch.equal(augment(x, 0, 0.0, torch.Generator().manual_seed(0)), x)


def test_augment_follows_its_generator_and_stays_in_range():
    x = torch.rand(5, 3, 16, 16)
    one, same, other = (augment(x, 3, 0.2, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.min() >= 0 and one.max() <= 1
