"""How time grows with patches, images and categories."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from advit.cache import ImageCache
from advit.data import open_category
from advit.synthetic import write_dataset
from benchmarks import attention
from benchmarks.timing import side_by_side
from benchmarks.training import network_of, our_scores, sized, smooth_images


def seconds_of(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of one function."""
    return side_by_side({"it": function}, repeats)["it"]


def by_patches(sizes: list[int], largest_published: int, repeats: int) -> dict[str, list[list[float]]]:
    """Milliseconds of one image's layer, forward and backward, against N; ours as in preset ``quick``."""
    curves: dict[str, list[list[float]]] = {}
    kinds = {
        "ours, with discrepancy": lambda x: attention.our_attention(x, "auto"),
        "plain attention": attention.plain_attention,
        "published": attention.published_attention,
    }
    for n in sizes:
        for name, function in kinds.items():
            if name != "published" or n <= largest_published:
                x = attention.inputs(n, 1, 64, name == "published")
                curves.setdefault(name, []).append([n, 1000 * seconds_of(lambda f=function, x=x: f(x), repeats)])
    return curves


def by_images(counts: list[int], preset: str, repeats: int, **options: Any) -> dict[str, list[list[float]]]:
    """Milliseconds to score one batch, against its images."""
    config = sized(preset, **options)
    network, images = network_of(config), smooth_images(config, max(counts))
    curve = [[n, 1000 * seconds_of(our_scores(network, images[:n]), repeats)] for n in counts]
    return {f"scoring, {preset}": curve}


def by_categories(counts: list[int], image_size: int, repeats: int) -> dict[str, list[list[float]]]:
    """Milliseconds to read the training images of the first categories, decoding and from the cache."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        names = ["connector", "gear", "terrazzo", "weave"][: max(counts)]
        write_dataset(root, categories=names, image_size=image_size, n_train=8, n_test_good=1, n_per_defect=1)
        samples = [open_category(root, name).train for name in names]
        curves: dict[str, list[list[float]]] = {"decoding": [], "from the cache": []}
        for count in counts:
            chosen = [s for part in samples[:count] for s in part]
            cold, warm = (ImageCache(chosen, image_size, limit_bytes=limit) for limit in (0, 2**31))
            warm.fill()
            found = side_by_side(
                {"decoding": lambda c=cold: epoch(c), "from the cache": lambda c=warm: epoch(c)}, repeats
            )
            for name, seconds in found.items():
                curves[name].append([count, 1000 * seconds])
    return curves


def epoch(cache: ImageCache, batch: int = 8) -> torch.Tensor:
    """Every image once, as float."""
    parts = [cache.batch(range(i, min(i + batch, len(cache)))).float().div_(255) for i in range(0, len(cache), batch)]
    return torch.stack([p.mean() for p in parts]).mean()
