"""targets.py: whitening against NumPy, and its limits."""

import numpy as np
import torch

from advit.targets import PixelTarget


def images(n=6, size=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(torch.rand(n, 3, 6, 6, generator=g), size=(size, size), mode="bilinear")
    return (0.7 * smooth + 0.3 * torch.rand(n, 3, size, size, generator=g)).double()


def test_targets_of_the_fitted_images_are_white():
    target = PixelTarget(patch=4, channels=3, target_dim=7).double()
    x = images()
    target.fit(x[i : i + 2] for i in range(0, 6, 2))
    z = target(x).reshape(-1, 7).numpy()
    assert np.allclose(z.mean(axis=0), 0, atol=1e-9)
    assert np.allclose(np.cov(z.T, bias=True), np.eye(7), atol=1e-8)


def test_components_are_numpys_leading_ones():
    target = PixelTarget(patch=4, channels=3, target_dim=5).double()
    x = images()
    target.fit([x])
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(-1, 48).numpy()
    _, values, rows = np.linalg.svd(patches - patches.mean(axis=0), full_matrices=False)
    for k in range(5):
        ours = target.whitening[:, k].numpy()
        theirs = rows[k] / (values[k] / np.sqrt(len(patches)))
        assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1e-8 * np.abs(theirs).max() + 1e-10


def test_directions_without_signal_are_not_blown_up():
    target = PixelTarget(patch=2, channels=3, target_dim=12).double()
    grey = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double().expand(-1, 3, -1, -1)
    target.fit([grey])
    nudged = grey + torch.tensor([1 / 255, 0, -1 / 255]).view(1, 3, 1, 1)
    assert target.whitening.isfinite().all()
    assert (target(nudged) - target(grey)).abs().max() < 12
