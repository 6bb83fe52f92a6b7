"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def tiny_mvtec(tmp_path: Path) -> Path:
    """A root with one category, ``part``, in MVTec AD layout: 6 training images, 3 good and 3 dented test images.

    64 x 64 RGB of coarse noise, each image its own; the dents are white squares with masks of 0 and 255.
    """
    rng = np.random.default_rng(7)
    root = tmp_path / "data"

    def save(name: str, array: np.ndarray) -> None:
        path = root / "part" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    def picture() -> np.ndarray:
        return np.kron(rng.integers(0, 200, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))

    for i in range(6):
        save(f"train/good/{i:03d}.png", picture())
    for i in range(3):
        save(f"test/good/{i:03d}.png", picture())
        image, mask = picture(), np.zeros((64, 64), dtype=np.uint8)
        mask[10 * i + 5 : 10 * i + 21, 20:36] = 255
        image[mask > 0] = 255
        save(f"test/dent/{i:03d}.png", image)
        save(f"ground_truth/dent/{i:03d}_mask.png", mask)
    return root


@pytest.fixture
def real_data() -> Path:
    """The folder of real images, for tests marked ``real``."""
    root = os.environ.get("ADVIT_DATA")
    if not root:
        pytest.skip("needs real images: set ADVIT_DATA to the folder that holds mvtec, magnetic_tile and hazelnut_toy")
    return Path(root)
