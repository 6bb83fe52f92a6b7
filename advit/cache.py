"""Decoded and resized images, kept as bytes, so that an epoch does not decode again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from advit.images import read_image, read_mask, resize_image, resize_mask
from advit.samples import Sample


class ImageCache(Dataset):
    """Images of ``samples`` as uint8 ``(3, H, H)``, decoded once while they fit in ``limit_bytes``.

    Kept are the first images that fit; the rest is decoded whenever asked for. Dropping the least recently used
    instead would be worse: an epoch visits all images, so each would be dropped shortly before it is needed again.
    Pixels are the same in every case. ``limit_bytes`` holds per process and counts images and masks.

    Pickling (workers that are spawned) leaves the pixels behind: a worker starts empty and decodes what it is asked
    for. Forked workers share what ``fill`` has decoded before.

    Args:
        samples: images, and masks of anomalous ones.
        image_size: H in pixels.
        mask_size: side of the masks, or None if masks are not asked for.
        limit_bytes: bytes to keep, at most.

    Raises:
        DataError: from every access, if a file cannot be decoded or a mask has not its image's size.

    Test: tests/test_cache.py
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: int,
        *,
        mask_size: int | None = None,
        limit_bytes: int = 2 * 2**30,
    ) -> None:
        self.samples = tuple(samples)
        self.image_size, self.mask_size = image_size, mask_size
        each = 3 * image_size**2 + (mask_size or 0) ** 2
        self.capacity = max(0, min(len(self.samples), limit_bytes // each))
        self._forget()

    def _forget(self) -> None:
        self._pixels = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        self._kept: set[int] = set()
        self._masks: dict[int, Tensor] = {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        names = ("samples", "image_size", "mask_size", "capacity")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        """Image ``index`` as uint8 ``(3, H, H)``; the caller may change it."""
        i = self._index(index)
        if i in self._kept:
            return self._pixels[i].clone()
        image = read_image(self.samples[i].path)
        self._sizes[i] = (image.shape[-2], image.shape[-1])
        small = resize_image(image, self.image_size)
        if i < self.capacity:
            if not len(self._pixels):
                self._pixels = torch.empty(self.capacity, *small.shape, dtype=torch.uint8)
            self._pixels[i] = small
            self._kept.add(i)
        return small

    def batch(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Images of these indices, in their order, as uint8 ``(batch, 3, H, H)``."""
        chosen = [self._index(int(i)) for i in indices]
        if self._kept.issuperset(chosen):
            return self._pixels[torch.tensor(chosen, dtype=torch.long)]
        return torch.stack([self[i] for i in chosen])

    def mask(self, index: int) -> Tensor:
        """Defect pixels of image ``index``, bool ``(mask_size, mask_size)``; all False without a mask file.

        Raises:
            ValueError: if the cache was made without ``mask_size``.
        """
        if self.mask_size is None:
            raise ValueError("this ImageCache was made without mask_size")
        i = self._index(index)
        path = self.samples[i].mask
        if path is None:
            return torch.zeros(self.mask_size, self.mask_size, dtype=torch.bool)
        if i in self._masks:
            return self._masks[i].clone()
        if i not in self._sizes:
            self._sizes[i] = tuple(read_image(self.samples[i].path).shape[-2:])
        mask = resize_mask(read_mask(path, self._sizes[i]), self.mask_size)
        if i < self.capacity:
            self._masks[i] = mask
        return mask.clone()

    def fill(self, progress: bool = False) -> None:
        """Decode every image, and every mask if ``mask_size`` is set: keeps what fits and finds every bad file."""
        for i in tqdm(range(len(self)), desc="decode", unit="image", disable=not progress):
            self[i]
            if self.mask_size is not None:
                self.mask(i)

    def _index(self, index: int) -> int:
        """``index`` counted from 0. Raises IndexError outside the samples."""
        return range(len(self.samples))[index]
