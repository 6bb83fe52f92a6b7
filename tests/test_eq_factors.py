"""factors.py: principal axes against NumPy, what is taken off, and which images are kept."""

import numpy as np
import pytest
import torch

from advit import factors
from advit.factors import KeptImages, image_factors, without_factors


def pictures(n=7, places=5, width=4, seed=0):
    return torch.randn(n, places, width, generator=torch.Generator().manual_seed(seed)).double()


def test_axes_are_numpys_right_singular_vectors_then_zeros():
    w = pictures()
    axes = image_factors(w, 3, 6)
    rows = torch.from_numpy(np.linalg.svd(w.flatten(1).numpy(), full_matrices=False)[2])
    for k in range(3):
        assert min((axes[k] - rows[k]).abs().max(), (axes[k] + rows[k]).abs().max()) < 1e-9
    assert axes.shape == (6, 20) and not axes[3:].any()
    assert not image_factors(w, 0, 2).any() and image_factors(w, 0, 0).shape == (0, 20)


def test_pictures_that_are_alike_have_only_the_axes_that_they_span():
    one = pictures(1)
    axes = image_factors(one.expand(6, -1, -1), 3, 3)
    assert torch.allclose(axes[0].abs(), (one / one.norm()).flatten().abs()) and not axes[1:].any()
    assert not image_factors(torch.zeros(6, 5, 4).double(), 3, 3).any()


def test_what_the_image_explains_is_taken_off_and_no_number_draws_it_by_more_than_three():
    """By hand: U = (1, 1, 0, 0) / sqrt 2, w = (1, 2, 5, 0) leaves (-1/2, 1/2, 5, 0); 101 is projected as 3."""
    axes = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double() / 2**0.5
    w = torch.tensor([[[1.0, 2.0], [5.0, 0.0]]]).double()
    assert torch.allclose(without_factors(w, axes), torch.tensor([[[-0.5, 0.5], [5.0, 0.0]]]).double())
    strong = torch.tensor([[[1.0, 101.0], [5.0, 0.0]]]).double()
    assert torch.allclose(without_factors(strong, axes), torch.tensor([[[-1.0, 99.0], [5.0, 0.0]]]).double())
    assert torch.equal(without_factors(w, axes[:0]), w)


@pytest.mark.parametrize("count, kept", [(3, [0, 1, 2]), (8, [0, 1, 2, 3, 4, 5, 6, 7]), (9, [0, 1, 4, 5, 8]),
                                         (16, [0, 1, 4, 5, 8, 9, 12, 13]), (17, [0, 1, 8, 9, 16])])  # fmt: skip
def test_of_many_images_pairs_are_kept_evenly(monkeypatch, count, kept):
    monkeypatch.setattr(factors, "MOST_KEPT", 8)
    found = KeptImages(2)
    for i in range(count):
        found.offer(i, torch.full((2, 1, 1), float(i)))
    assert [i for i, _ in found.features] == kept
    for fold in (0, 1):
        assert found.of_fold(fold)[:, 0, 0, 0].tolist() == [i for i in kept if i % 2 == fold]
